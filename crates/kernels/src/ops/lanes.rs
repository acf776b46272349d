//! Loops over slices, one vector at a time with a masked tail: element `i` always sits in lane
//! `i % LANES`, so its arithmetic never depends on the length.
//!
//! Macros, not functions that take closures: a closure does not inherit the target features of the
//! function it stands in, and one that is not inlined calls every instruction as a function.
//! All run in an `unsafe` block whose author vouches for the set `S` and the pointers.

/// `out[i] = f(x[i], y[i])` for `n` elements, where `x`, `y` and `out` may be the same memory.
macro_rules! map2 {
    ($s:ident, $x:expr, $y:expr, $out:expr, $n:expr, |$a:ident, $b:ident| $f:expr) => {{
        let (x, y, out, n): (*const f32, *const f32, *mut f32, usize) = ($x, $y, $out, $n);
        let whole = n - n % $s::LANES;
        let mut i = 0;
        while i < whole {
            let ($a, $b) = ($s::load(x.add(i)), $s::load(y.add(i)));
            $s::store(out.add(i), $f);
            i += $s::LANES;
        }
        if whole < n {
            let rest = n - whole;
            let ($a, $b) = ($s::load_part(x.add(whole), rest), $s::load_part(y.add(whole), rest));
            $s::store_part(out.add(whole), $f, rest);
        }
    }};
}
pub(super) use map2;

/// `x[i] = f(x[i])` for a `&mut [f32]`.
macro_rules! map_assign {
    ($s:ident, $x:expr, |$a:ident| $f:expr) => {{
        let x: &mut [f32] = $x;
        let (p, n) = (x.as_mut_ptr(), x.len());
        $crate::ops::lanes::map2!($s, p, p, p, n, |$a, _same| $f)
    }};
}
pub(super) use map_assign;

/// The body for each vector of `x`; the last one has `fill` in the lanes behind the slice.
macro_rules! each {
    ($s:ident, $x:expr, $fill:expr, |$v:ident| $f:expr) => {{
        let x: &[f32] = $x;
        let whole = x.len() - x.len() % $s::LANES;
        let mut i = 0;
        while i < whole {
            let $v = $s::load(x.as_ptr().add(i));
            $f;
            i += $s::LANES;
        }
        if whole < x.len() {
            // No set has more than 16 lanes.
            let mut padded: [f32; 16] = [$fill; 16];
            padded[..x.len() - whole].copy_from_slice(&x[whole..]);
            let $v = $s::load(padded.as_ptr());
            $f;
        }
    }};
}
pub(super) use each;
