//! Which instruction set the kernels run on: chosen once, at the first call.
//!
//! Every set obeys row invariance by itself; equality of bits between two sets is not promised.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// Instruction sets with kernels of their own, each better than those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Isa {
    /// Plain Rust, 8 lanes: the oracle in tests, and what serves every other processor.
    Portable = 1,
    /// x86-64 AVX2 with FMA and F16C, 8 lanes.
    Avx2 = 2,
    /// AVX2 with AVX-VNNI for the products of quantised weights, 8 lanes: the same bits as AVX2, sooner.
    AvxVnni = 3,
    /// x86-64 AVX-512 F/BW/DQ/VL with VNNI, 16 lanes.
    Avx512 = 4,
}

/// The name of each set, the best first, and another one that [`VARIABLE`] may have for it.
const NAMES: [(Isa, &str, &str); 4] = [
    (Isa::Avx512, "avx512", "avx512-vnni"),
    (Isa::AvxVnni, "avxvnni", "avx2-vnni"),
    (Isa::Avx2, "avx2", "avx2"),
    (Isa::Portable, "portable", "portable"),
];

/// The environment variable that names the best set to use.
const VARIABLE: &str = "LEVERET_ISA";

static CHOSEN: AtomicU8 = AtomicU8::new(0);

impl Isa {
    /// The set in use: the best one that this processor has, up to the one that the environment variable `LEVERET_ISA`
    /// names, if it does.
    #[inline]
    pub fn current() -> Isa {
        match CHOSEN.load(Ordering::Relaxed) {
            1 => Isa::Portable,
            2 => Isa::Avx2,
            3 => Isa::AvxVnni,
            4 => Isa::Avx512,
            _ => Self::choose(),
        }
    }

    #[cold]
    fn choose() -> Isa {
        let most = named();
        let sets = NAMES.into_iter().map(|(isa, ..)| isa);
        let mut usable =
            sets.filter(|&isa| most.is_none_or(|most| isa as u8 <= most as u8) && isa.available());
        let isa = usable.next().unwrap_or(Isa::Portable);
        CHOSEN.store(isa as u8, Ordering::Relaxed);
        isa
    }

    /// The set that the environment variable `LEVERET_ISA` names, if it is set. Kernels take no notice of a name that
    /// is none; a program asks at its start.
    ///
    /// # Errors
    /// A name that is none, with those that there are.
    pub fn requested() -> Result<Option<Isa>, String> {
        let Some(value) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let isa = value.to_str().and_then(Self::from_name);
        isa.map(Some).ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().rev().map(|(_, name, _)| *name).collect();
            format!("{VARIABLE} is {value:?}, expected one of {}, or to be unset", names.join(", "))
        })
    }

    fn from_name(name: &str) -> Option<Isa> {
        NAMES.into_iter().find(|(_, own, other)| [*own, *other].contains(&name)).map(|(isa, ..)| isa)
    }

    /// Whether this processor can run the set.
    pub fn available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                std::is_x86_feature_detected!("avx2")
                    && std::is_x86_feature_detected!("fma")
                    && std::is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Isa::Avx2.available() && std::is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.available()
                    && std::is_x86_feature_detected!("avx512f")
                    && std::is_x86_feature_detected!("avx512bw")
                    && std::is_x86_feature_detected!("avx512dq")
                    && std::is_x86_feature_detected!("avx512vl")
                    && std::is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// Lanes of an f32 vector, which is also the number of matrix rows in a weight panel.
    pub const fn lanes(self) -> usize {
        match self {
            Isa::Avx512 => 16,
            Isa::Portable | Isa::Avx2 | Isa::AvxVnni => 8,
        }
    }

    /// The name that `LEVERET_ISA` has for it.
    pub fn name(self) -> &'static str {
        NAMES.into_iter().find(|(isa, ..)| *isa == self).map_or("portable", |(_, name, _)| name)
    }
}

/// The set that is named, and is one.
fn named() -> Option<Isa> {
    Isa::requested().ok().flatten()
}

/// Whether this process may use AMX tiles of int8 beside AVX-512. They give the same bits, so that a set with them is no
/// set of its own; naming a set in `LEVERET_ISA` does without them.
pub(crate) fn tiles() -> bool {
    static GRANTED: OnceLock<bool> = OnceLock::new();
    *GRANTED.get_or_init(|| named().is_none() && Isa::current() == Isa::Avx512 && request_tiles())
}

/// Asks the system for the registers of tiles, if the processor has them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_tiles() -> bool {
    const AMX_TILE_AND_INT8: u32 = 3 << 24;
    const REQUEST: libc::c_int = 0x1023;
    const TILE_DATA: libc::c_int = 18;
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    // SAFETY: the request names a register state and touches no memory of ours.
    leaf.edx & AMX_TILE_AND_INT8 == AMX_TILE_AND_INT8
        && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) } == 0
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn request_tiles() -> bool {
    false
}

/// Whether the processor itself brings memory closer fast enough for products of one or two rows, which do little else
/// than read. Asking for it as well takes its time: on Zen 4 one thread read 14 to 27% slower for one row of four
/// formats, calls in turns; two threads 6 to 11% slower for three of them, and 12% faster for Q6_K while the memory
/// changed its speed. From three rows on asking gains there too.
pub(crate) fn reads_ahead() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(is_amd)
}

#[cfg(target_arch = "x86_64")]
fn is_amd() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}

#[cfg(not(target_arch = "x86_64"))]
fn is_amd() -> bool {
    false
}

/// Defines a function whose body is written once over [`Simd`](crate::simd::Simd) and compiled
/// for each instruction set; the call picks the one in use. AVX-VNNI is for products with weights and has none here.
///
/// `simd_fn! { pub fn name<S>(args) -> Ret { body } }`: the body may use `S: Simd` freely. It is
/// compiled inside functions that enable the set's target features, so everything it calls must be
/// `#[inline(always)]` to be vectorised with it. The body is `unsafe` context for `Simd` calls only
/// through explicit `unsafe` blocks.
macro_rules! simd_fn {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$S:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[inline]
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body<$S: $crate::simd::Simd>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body::<$crate::simd::Avx2<false>>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body::<$crate::simd::Avx512>($($arg),*)
            }

            match $crate::isa::Isa::current() {
                // SAFETY: `Isa::current` names only sets that this processor has.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx2 | $crate::isa::Isa::AvxVnni => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
                _ => body::<$crate::simd::Portable>($($arg),*),
            }
        }
    };
}
pub(crate) use simd_fn;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_by_the_names_that_are_printed() {
        for (isa, name, other) in NAMES {
            assert_eq!(isa.name(), name);
            assert_eq!([name, other].map(Isa::from_name), [Some(isa); 2]);
        }
        assert!(NAMES.is_sorted_by_key(|(isa, ..)| std::cmp::Reverse(*isa as u8)));
        assert_eq!(["", "AVX512", "avx-512"].map(Isa::from_name), [None; 3]);
    }
}
