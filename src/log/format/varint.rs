//! Zigzag variable-length integers, as records use them: seven bits a byte, low bits first.

/// Most bytes of a 32-bit integer.
pub const VARINT_BYTES_MAX: usize = 5;
/// Most bytes of a 64-bit integer.
pub const VARLONG_BYTES_MAX: usize = 10;

/// Why a variable-length integer cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VarintError {
    /// The input ends inside it.
    #[error("the input ends inside a variable-length integer")]
    Truncated,
    /// It goes on after its last possible byte, or has bits beyond its width.
    #[error("a variable-length integer is wider than its type")]
    Overlong,
}

/// Appends a 32-bit integer.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, value: i32) {
    put_unsigned(out, u64::from(zigzag32(value)));
}

/// Appends a 64-bit integer.
#[inline]
pub fn put_varlong(out: &mut Vec<u8>, value: i64) {
    put_unsigned(out, zigzag64(value));
}

/// Bytes that [`put_varint`] appends.
#[inline]
pub const fn varint_len(value: i32) -> usize {
    unsigned_len(zigzag32(value) as u64)
}

/// Bytes that [`put_varlong`] appends.
#[inline]
pub const fn varlong_len(value: i64) -> usize {
    unsigned_len(zigzag64(value))
}

/// Reads a 32-bit integer that starts at `position`; also returns the position after it.
///
/// # Errors
/// [`VarintError`]; nothing after `input` or after the fifth byte is looked at.
#[inline(always)]
pub fn read_varint(input: &[u8], position: usize) -> Result<(i32, usize), VarintError> {
    let (raw, next) = read_unsigned::<VARINT_BYTES_MAX>(input, position)?;
    let raw = u32::try_from(raw).map_err(|_| VarintError::Overlong)?;
    Ok(((raw >> 1) as i32 ^ -((raw & 1) as i32), next))
}

/// Reads a 64-bit integer that starts at `position`; also returns the position after it.
///
/// # Errors
/// [`VarintError`]; nothing after `input` or after the tenth byte is looked at.
#[inline(always)]
pub fn read_varlong(input: &[u8], position: usize) -> Result<(i64, usize), VarintError> {
    let (raw, next) = read_unsigned::<VARLONG_BYTES_MAX>(input, position)?;
    Ok(((raw >> 1) as i64 ^ -((raw & 1) as i64), next))
}

const fn zigzag32(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

const fn zigzag64(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

const fn unsigned_len(raw: u64) -> usize {
    // One byte for every seven bits begun; zero takes one as well.
    (70 - (raw | 1).leading_zeros() as usize) / 7
}

#[inline]
fn put_unsigned(out: &mut Vec<u8>, mut raw: u64) {
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

#[inline(always)]
fn read_unsigned<const BYTES_MAX: usize>(
    input: &[u8],
    position: usize,
) -> Result<(u64, usize), VarintError> {
    // Nearly all integers of a record are one or two bytes long.
    match *input.get(position..).unwrap_or_default() {
        [first, ..] if first < 0x80 => Ok((u64::from(first), position + 1)),
        [first, second, ..] if second < 0x80 => {
            Ok((u64::from(first & 0x7f) | u64::from(second) << 7, position + 2))
        }
        _ => read_long::<BYTES_MAX>(input, position),
    }
}

#[inline(never)]
fn read_long<const BYTES_MAX: usize>(
    input: &[u8],
    position: usize,
) -> Result<(u64, usize), VarintError> {
    let rest = input.get(position..).unwrap_or_default();
    let mut raw = 0u64;
    for (index, &byte) in rest.iter().take(BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * index as u32;
        if shift == 63 && bits > 1 {
            return Err(VarintError::Overlong);
        }
        raw |= bits << shift;
        if byte < 0x80 {
            return Ok((raw, position + index + 1));
        }
    }
    Err(if rest.len() < BYTES_MAX { VarintError::Truncated } else { VarintError::Overlong })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, in the widest arithmetic: doubled magnitude, odd if negative, then base 128.
    fn naive(value: i64) -> Vec<u8> {
        let wide = i128::from(value);
        let mut raw = if wide < 0 { -2 * wide - 1 } else { 2 * wide };
        let mut bytes = Vec::new();
        loop {
            let digit = (raw % 128) as u8;
            raw /= 128;
            if raw == 0 {
                bytes.push(digit);
                return bytes;
            }
            bytes.push(digit + 128);
        }
    }

    fn edges() -> impl Strategy<Value = i64> {
        prop_oneof![any::<i64>(), any::<i32>().prop_map(i64::from), (0..64u32).prop_map(|n| 1 << n)]
    }

    #[test]
    fn known_values_have_the_bytes_of_kafkas_tests() {
        let known: [(i32, &[u8]); 10] = [
            (0, &[0]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 1]),
            (-65, &[0x81, 1]),
            (8191, &[0xfe, 0x7f]),
            (i32::MAX, &[0xfe, 0xff, 0xff, 0xff, 0xf]),
            (i32::MIN, &[0xff, 0xff, 0xff, 0xff, 0xf]),
        ];
        for (value, bytes) in known {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, bytes, "{value}");
            assert_eq!(read_varint(bytes, 0), Ok((value, bytes.len())));
        }
    }

    #[test]
    fn an_integer_wider_than_its_type_is_refused() {
        for bytes in [&[0xff, 0xff, 0xff, 0xff, 0x10][..], &[0x80; 5], &[0xff; 9]] {
            assert_eq!(read_varint(bytes, 0), Err(VarintError::Overlong), "{bytes:?}");
        }
        let mut tenth = [0xff; 10];
        assert_eq!(read_varlong(&tenth, 0), Err(VarintError::Overlong));
        tenth[9] = 2;
        assert_eq!(read_varlong(&tenth, 0), Err(VarintError::Overlong));
        assert_eq!(
            read_varlong(&[&[0x80; 9][..], &[0x81, 0]].concat(), 0),
            Err(VarintError::Overlong)
        );
        tenth[9] = 1;
        assert_eq!(read_varlong(&tenth, 0), Ok((i64::MIN, 10)));
    }

    #[test]
    fn a_position_after_the_input_is_a_truncation() {
        assert_eq!(read_varint(&[], 0), Err(VarintError::Truncated));
        assert_eq!(read_varint(&[0], 1), Err(VarintError::Truncated));
        assert_eq!(read_varlong(&[0x80], usize::MAX), Err(VarintError::Truncated));
    }

    proptest! {
        #[test]
        fn writing_agrees_with_the_definition_and_reads_back(value in edges(), before in 0..4usize) {
            let mut out = vec![0xff; before];
            put_varlong(&mut out, value);
            prop_assert_eq!(&out[before..], naive(value));
            prop_assert_eq!(varlong_len(value), out.len() - before);
            prop_assert_eq!(read_varlong(&out, before), Ok((value, out.len())));
            for end in before..out.len() {
                prop_assert_eq!(read_varlong(&out[..end], before), Err(VarintError::Truncated));
            }
            let narrow = value as i32;
            let mut out = Vec::new();
            put_varint(&mut out, narrow);
            prop_assert_eq!(&out, &naive(i64::from(narrow)));
            prop_assert_eq!(varint_len(narrow), out.len());
            prop_assert_eq!(read_varint(&out, 0), Ok((narrow, out.len())));
        }

        #[test]
        fn arbitrary_bytes_read_as_both_widths_or_fail_alike(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            match (read_varint(&bytes, 0), read_varlong(&bytes, 0)) {
                (Ok((narrow, a)), Ok((wide, b))) => {
                    prop_assert_eq!((i64::from(narrow), a), (wide, b));
                }
                (Ok(_), Err(error)) => prop_assert!(false, "only the wide one fails: {error}"),
                (Err(VarintError::Truncated), wide) => {
                    prop_assert_eq!(wide, Err(VarintError::Truncated));
                }
                (Err(VarintError::Overlong), _) => prop_assert!(bytes.len() >= 5),
            }
        }
    }
}
