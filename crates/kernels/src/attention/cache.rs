//! Keys and values of one layer, laid out for the attention kernel.
//!
//! Slots are cut into blocks, so that memory is taken as a sequence grows. In a block, keys stand in
//! tiles of [`TILE`] slots, `[kv_head][tile][k_dim][TILE]`: a vector holds one dimension of many keys
//! and scores need no sums across lanes. Values stand as rows, `[kv_head][slot][v_stride]`, zero behind
//! `v_dim`.

use super::BLOCK;
use crate::isa::simd_fn;
use crate::memory::Pages;
use crate::simd::Simd;
use half::f16;

/// Slots of a key tile: a whole number of vectors in every instruction set.
pub(super) const TILE: usize = 16;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvType {
    /// IEEE half precision; values beyond its range are stored as the largest one.
    F16,
    /// Single precision.
    F32,
}

impl KvType {
    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            KvType::F16 => 2,
            KvType::F32 => 4,
        }
    }
}

/// The keys and values that one layer has cached: `capacity` slots of `kv_heads` heads.
///
/// All slots exist from the start, as zeros; memory is taken when a slot is first written.
pub struct KvBuffer {
    pub(super) ty: KvType,
    pub(super) at: Places,
    k: Pages,
    v: Pages,
}

impl KvBuffer {
    /// An empty buffer for at least `capacity` positions. `None` if a dimension is zero, the size
    /// overflows, or the system refuses the memory.
    pub fn new(ty: KvType, kv_heads: usize, k_dim: usize, v_dim: usize, capacity: usize) -> Option<Self> {
        if kv_heads == 0 || k_dim == 0 || v_dim == 0 {
            return None;
        }
        let capacity = capacity.max(1).checked_next_multiple_of(BLOCK)?;
        let v_stride = v_dim.checked_next_multiple_of(TILE)?;
        let bytes = kv_heads.checked_mul(capacity)?.checked_mul(ty.bytes())?;
        let k = Pages::zeroed(bytes.checked_mul(k_dim)?)?;
        let v = Pages::zeroed(bytes.checked_mul(v_stride)?)?;
        let at = Places { kv_heads, k_dim, v_dim, v_stride, capacity };
        Some(Self { ty, at, k, v })
    }

    /// A buffer of the same shape with the rows of the first `slots` slots. `None` when the system refuses the memory.
    ///
    /// # Panics
    /// If there are fewer slots.
    pub fn fork(&self, slots: usize) -> Option<Self> {
        assert!(slots <= self.at.capacity);
        let Places { kv_heads, k_dim, v_dim, v_stride, capacity } = self.at;
        let mut fork = Self::new(self.ty, kv_heads, k_dim, v_dim, capacity)?;
        // The heads of a block lie together.
        let elements = kv_heads * slots.next_multiple_of(BLOCK) * self.ty.bytes();
        for (to, from, width) in [(&mut fork.k, &self.k, k_dim), (&mut fork.v, &self.v, v_stride)] {
            let used = ..elements * width;
            to.bytes_mut()[used].copy_from_slice(&from.bytes()[used]);
        }
        Some(fork)
    }

    /// Storage type.
    pub fn ty(&self) -> KvType {
        self.ty
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.at.kv_heads
    }

    /// Elements of a key.
    pub fn k_dim(&self) -> usize {
        self.at.k_dim
    }

    /// Elements of a value.
    pub fn v_dim(&self) -> usize {
        self.at.v_dim
    }

    /// Slots, rounded up to a whole block.
    pub fn capacity(&self) -> usize {
        self.at.capacity
    }

    /// Bytes of address space, which is what a full buffer takes.
    pub fn bytes(&self) -> usize {
        self.k.bytes().len() + self.v.bytes().len()
    }

    /// Stores consecutive rows from `slot` on: `k` is `[rows][kv_heads * k_dim]`, `v` is
    /// `[rows][kv_heads * v_dim]`.
    ///
    /// # Panics
    /// If `k` and `v` are not the same whole number of rows, or the rows do not fit behind `slot`.
    pub fn write(&mut self, slot: usize, k: &[f32], v: &[f32]) {
        let rows = k.len() / (self.at.kv_heads * self.at.k_dim);
        assert!(
            k.len() == rows * self.at.kv_heads * self.at.k_dim
                && v.len() == rows * self.at.kv_heads * self.at.v_dim,
            "keys and values must be the same whole number of rows"
        );
        assert!(
            slot <= self.at.capacity && rows <= self.at.capacity - slot,
            "rows {slot}..{} in a buffer of {} slots",
            slot.saturating_add(rows),
            self.at.capacity
        );
        write_rows(self, slot, k, v);
    }

    /// Copies the row of slot `from` over the one of slot `to`.
    ///
    /// # Panics
    /// If a slot lies beyond the capacity.
    pub fn move_row(&mut self, from: usize, to: usize) {
        assert!(from < self.at.capacity && to < self.at.capacity);
        match self.ty {
            KvType::F16 => self.move_elements::<u16>(from, to),
            KvType::F32 => self.move_elements::<f32>(from, to),
        }
    }

    /// Reads the key of one slot and head, `out` being `[k_dim]`.
    ///
    /// # Panics
    /// If `out` has another length, or the slot or head does not exist.
    pub fn read_k(&self, slot: usize, kv_head: usize, out: &mut [f32]) {
        assert!(slot < self.at.capacity && kv_head < self.at.kv_heads && out.len() == self.at.k_dim);
        let first = self.at.key(kv_head, slot);
        let read = |d: usize| match self.ty {
            KvType::F16 => f16::from_bits(self.keys::<u16>()[first + d * TILE]).to_f32(),
            KvType::F32 => self.keys::<f32>()[first + d * TILE],
        };
        out.iter_mut().enumerate().for_each(|(d, x)| *x = read(d));
    }

    /// Reads the value of one slot and head, `out` being `[v_dim]`.
    ///
    /// # Panics
    /// If `out` has another length, or the slot or head does not exist.
    pub fn read_v(&self, slot: usize, kv_head: usize, out: &mut [f32]) {
        assert!(slot < self.at.capacity && kv_head < self.at.kv_heads && out.len() == self.at.v_dim);
        let first = self.at.value(kv_head, slot);
        let read = |d: usize| match self.ty {
            KvType::F16 => f16::from_bits(self.values::<u16>()[first + d]).to_f32(),
            KvType::F32 => self.values::<f32>()[first + d],
        };
        out.iter_mut().enumerate().for_each(|(d, x)| *x = read(d));
    }

    /// All keys; `E` must be the element of the buffer's type.
    pub(super) fn keys<E: Element>(&self) -> &[E] {
        bytemuck::cast_slice(self.k.bytes())
    }

    /// All values, as [`keys`](Self::keys).
    pub(super) fn values<E: Element>(&self) -> &[E] {
        bytemuck::cast_slice(self.v.bytes())
    }

    fn move_elements<E: Element>(&mut self, from: usize, to: usize) {
        let at = self.at;
        let keys: &mut [E] = bytemuck::cast_slice_mut(self.k.bytes_mut());
        let values: &mut [E] = bytemuck::cast_slice_mut(self.v.bytes_mut());
        for head in 0..at.kv_heads {
            let (source, target) = (at.key(head, from), at.key(head, to));
            for d in 0..at.k_dim {
                keys[target + d * TILE] = keys[source + d * TILE];
            }
            let source = at.value(head, from);
            values.copy_within(source..source + at.v_stride, at.value(head, to));
        }
    }

    #[inline(always)]
    fn write_elements<S: Simd, E: Element>(&mut self, slot: usize, k: &[f32], v: &[f32]) {
        let at = self.at;
        let keys: &mut [E] = bytemuck::cast_slice_mut(self.k.bytes_mut());
        let values: &mut [E] = bytemuck::cast_slice_mut(self.v.bytes_mut());
        let mut stored = [E::zeroed(); 64];
        let rows = k.chunks_exact(at.k_dim).zip(v.chunks_exact(at.v_dim));
        for (i, (k, v)) in rows.enumerate() {
            let (slot, head) = (slot + i / at.kv_heads, i % at.kv_heads);
            let mut target = at.key(head, slot);
            for part in k.chunks(stored.len()) {
                convert::<S, E>(part, &mut stored);
                for &x in &stored[..part.len()] {
                    keys[target] = x;
                    target += TILE;
                }
            }
            let first = at.value(head, slot);
            convert::<S, E>(v, &mut values[first..first + at.v_stride]);
        }
    }
}

impl std::fmt::Debug for KvBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvBuffer").field("ty", &self.ty).field("at", &self.at).finish_non_exhaustive()
    }
}

/// Where rows stand in the two slices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) kv_heads: usize,
    pub(super) k_dim: usize,
    pub(super) v_dim: usize,
    /// Elements from one value to the next.
    pub(super) v_stride: usize,
    pub(super) capacity: usize,
}

impl Places {
    /// Index of a key's first element; the others follow at distance [`TILE`].
    #[inline(always)]
    pub(super) fn key(self, kv_head: usize, slot: usize) -> usize {
        let tile = slot % BLOCK / TILE * TILE;
        (self.block(kv_head, slot) + tile) * self.k_dim + slot % TILE
    }

    /// Index of a value's first element.
    #[inline(always)]
    pub(super) fn value(self, kv_head: usize, slot: usize) -> usize {
        (self.block(kv_head, slot) + slot % BLOCK) * self.v_stride
    }

    /// Slots in front of this head's part of a slot's block.
    #[inline(always)]
    fn block(self, kv_head: usize, slot: usize) -> usize {
        (slot / BLOCK * self.kv_heads + kv_head) * BLOCK
    }
}

simd_fn! {
    fn write_rows<S>(kv: &mut KvBuffer, slot: usize, k: &[f32], v: &[f32]) {
        match kv.ty {
            KvType::F16 => kv.write_elements::<S, u16>(slot, k, v),
            KvType::F32 => kv.write_elements::<S, f32>(slot, k, v),
        }
    }
}

/// Stores `x` in the first elements of `out`, whose length covers the last vector.
#[inline(always)]
fn convert<S: Simd, E: Element>(x: &[f32], out: &mut [E]) {
    assert!(x.len().next_multiple_of(S::LANES) <= out.len());
    for i in (0..x.len()).step_by(S::LANES) {
        // SAFETY: `i + LANES <= out.len()` by the assertion; only what `x` has is read. Called only
        // from simd_fn.
        unsafe {
            let v = S::load_part(x.as_ptr().add(i), S::LANES.min(x.len() - i));
            E::store::<S>(out.as_mut_ptr().add(i), v);
        }
    }
}

/// An element that keys and values are stored as; `u16` holds the bits of half precision.
pub(super) trait Element: bytemuck::Pod {
    /// Loads a vector.
    ///
    /// # Safety
    /// `LANES` elements are readable; the processor has `S`.
    unsafe fn load<S: Simd>(p: *const Self) -> S::F;
    /// Stores a vector.
    ///
    /// # Safety
    /// `LANES` elements are writable; the processor has `S`.
    unsafe fn store<S: Simd>(p: *mut Self, v: S::F);
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut Self, v: S::F) {
        // SAFETY: the caller's contract.
        unsafe { S::store(p, v) }
    }
}

impl Element for u16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { S::load_f16(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(p: *mut Self, v: S::F) {
        // The bound comes first so that NaN stays NaN. Infinity would spoil other rows' sums.
        // SAFETY: the caller's contract.
        unsafe {
            let bound = f16::MAX.to_f32_const();
            let v = S::max(S::splat(-bound), S::min(S::splat(bound), v));
            S::store_f16(p, v);
        }
    }
}
