//! Sixty-four bytes of a text at a time, and where among them certain bytes stand: masks in which bit n tells of byte n.
//!
//! For processors with AVX2 so far, which the program finds out when it runs: on others nobody asks for blocks, and `scan` reads instead.

#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

/// Bytes of a block.
pub const BLOCK: usize = 64;

/// A block in the registers of some kind of processor.
pub trait Block: Copy {
    /// # Safety
    /// The processor has the instructions of this kind. That a block exists shows it to the other functions.
    unsafe fn load(bytes: &[u8; BLOCK]) -> Self;
    fn equal(self, byte: u8) -> u64;
    /// Where the byte, of its bits only those in `bits`, is `byte`.
    fn equal_in(self, bits: u8, byte: u8) -> u64;
    fn between(self, first: u8, last: u8) -> u64;
    /// Where the byte isn't ASCII.
    fn high(self) -> u64;
    /// In each bit, whether the bits of `mask` up to and with that one are odd in number.
    fn parity(self, mask: u64) -> u64;
}

#[cfg(target_arch = "x86_64")]
pub use x86::Avx2;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, _mm_clmulepi64_si128, _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_set1_epi8, _mm256_and_si256,
        _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_set1_epi8,
        _mm256_sub_epi8,
    };

    use super::{BLOCK, Block};

    /// By AVX2 and PCLMULQDQ.
    #[derive(Clone, Copy)]
    pub struct Avx2(__m256i, __m256i);

    #[inline(always)]
    fn joined(low: i32, high: i32) -> u64 {
        u64::from(low as u32) | u64::from(high as u32) << 32
    }

    // SAFETY of the functions below `load`: the block exists, so the processor has the instructions.
    impl Block for Avx2 {
        #[inline(always)]
        unsafe fn load(bytes: &[u8; BLOCK]) -> Avx2 {
            // SAFETY: the loads, which need no alignment, read the two halves; the instructions are the caller's promise.
            unsafe {
                let start = bytes.as_ptr().cast::<__m256i>();
                Avx2(_mm256_loadu_si256(start), _mm256_loadu_si256(start.add(1)))
            }
        }

        #[inline(always)]
        fn equal(self, byte: u8) -> u64 {
            unsafe {
                let byte = _mm256_set1_epi8(byte as i8);
                let [low, high] = [self.0, self.1].map(|half| _mm256_movemask_epi8(_mm256_cmpeq_epi8(half, byte)));
                joined(low, high)
            }
        }

        #[inline(always)]
        fn equal_in(self, bits: u8, byte: u8) -> u64 {
            unsafe {
                let bits = _mm256_set1_epi8(bits as i8);
                Avx2(_mm256_and_si256(self.0, bits), _mm256_and_si256(self.1, bits)).equal(byte)
            }
        }

        #[inline(always)]
        fn between(self, first: u8, last: u8) -> u64 {
            unsafe {
                let (first, span) = (_mm256_set1_epi8(first as i8), _mm256_set1_epi8((last - first) as i8));
                let [low, high] = [self.0, self.1].map(|half| {
                    let above = _mm256_sub_epi8(half, first);
                    _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(above, span), above))
                });
                joined(low, high)
            }
        }

        #[inline(always)]
        fn high(self) -> u64 {
            unsafe { joined(_mm256_movemask_epi8(self.0), _mm256_movemask_epi8(self.1)) }
        }

        #[inline(always)]
        fn parity(self, mask: u64) -> u64 {
            // The product without carries of the mask and ones: each of its bits sums up those of the mask up to there.
            unsafe {
                let product = _mm_clmulepi64_si128::<0>(_mm_cvtsi64_si128(mask as i64), _mm_set1_epi8(-1));
                _mm_cvtsi128_si64(product) as u64
            }
        }
    }
}
