//! The shape of a body, checked without allocating: depth, completeness, nothing behind it.
//!
//! Decoders trust declared lengths, recurse, and ignore what follows the value; so the scan walks the bytes first, with a fixed stack.

use super::{MAX_DEPTH, WireError};

fn malformed(what: &str, at: usize) -> WireError {
    WireError::Malformed(format!("{what} at byte {at}"))
}

/// Checks that `bytes` are exactly one MessagePack map, complete, and at most [`MAX_DEPTH`] deep.
///
/// # Errors
/// [`WireError::Malformed`] or [`WireError::TooDeep`].
pub fn msgpack(bytes: &[u8]) -> Result<(), WireError> {
    match bytes.first() {
        None => return Err(malformed("nothing", 0)),
        Some(0x80..=0x8f | 0xde | 0xdf) => {}
        Some(_) => return Err(malformed("no map", 0)),
    }
    // How many values each open map or array still lacks.
    let mut open = [0_u64; MAX_DEPTH];
    let mut depth = 0_usize;
    let mut at = 0_usize;
    loop {
        let (skip, children) = head(bytes, at)?;
        at = at.checked_add(skip).filter(|end| *end <= bytes.len()).ok_or_else(|| malformed("cut short", bytes.len()))?;
        if children > 0 {
            *open.get_mut(depth).ok_or(WireError::TooDeep)? = children;
            depth += 1;
        } else {
            // A finished value finishes every container of which it was the last.
            while let Some(left) = depth.checked_sub(1).and_then(|top| open.get_mut(top)) {
                *left -= 1;
                if *left > 0 {
                    break;
                }
                depth -= 1;
            }
        }
        if depth == 0 {
            return if at == bytes.len() { Ok(()) } else { Err(malformed("more bytes after the map", at)) };
        }
    }
}

/// The value that begins at `at`: bytes to skip (head and, for scalars, content) and how many values follow inside it.
fn head(bytes: &[u8], at: usize) -> Result<(usize, u64), WireError> {
    let marker = *bytes.get(at).ok_or_else(|| malformed("cut short", at))?;
    let length = |width: usize| -> Result<u64, WireError> {
        let digits = bytes.get(at + 1..at + 1 + width).ok_or_else(|| malformed("cut short", at))?;
        Ok(digits.iter().fold(0, |acc, byte| acc << 8 | u64::from(*byte)))
    };
    let sized = |width: usize, extra: usize| -> Result<(usize, u64), WireError> {
        let content = usize::try_from(length(width)?).unwrap_or(usize::MAX);
        Ok((content.saturating_add(1 + width + extra), 0))
    };
    Ok(match marker {
        0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (1, 0),
        0x80..=0x8f => (1, 2 * u64::from(marker & 0x0f)),
        0x90..=0x9f => (1, u64::from(marker & 0x0f)),
        0xa0..=0xbf => (1 + usize::from(marker & 0x1f), 0),
        0xc1 => return Err(malformed("a byte that MessagePack never uses", at)),
        0xc4 | 0xd9 => sized(1, 0)?,
        0xc5 | 0xda => sized(2, 0)?,
        0xc6 | 0xdb => sized(4, 0)?,
        0xc7 => sized(1, 1)?,
        0xc8 => sized(2, 1)?,
        0xc9 => sized(4, 1)?,
        0xcc | 0xd0 => (2, 0),
        0xcd | 0xd1 => (3, 0),
        0xca | 0xce | 0xd2 => (5, 0),
        0xcb | 0xcf | 0xd3 => (9, 0),
        0xd4 => (3, 0),
        0xd5 => (4, 0),
        0xd6 => (6, 0),
        0xd7 => (10, 0),
        0xd8 => (18, 0),
        0xdc => (3, length(2)?),
        0xdd => (5, length(4)?),
        0xde => (3, 2 * length(2)?),
        0xdf => (5, 2 * length(4)?),
    })
}

/// Checks that a JSON text nests at most [`MAX_DEPTH`] deep. Everything else about its syntax is left to the decoder.
///
/// # Errors
/// [`WireError::TooDeep`].
pub fn json(bytes: &[u8]) -> Result<(), WireError> {
    let (mut depth, mut text, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'{' | b'[' if !text => depth += 1,
            b'}' | b']' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(WireError::TooDeep);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_map_is_whole() {
        assert_eq!(msgpack(&[0x80]), Ok(()));
        assert_eq!(msgpack(&[0xde, 0, 0]), Ok(()));
    }

    #[test]
    fn depth_is_counted_to_the_limit_and_no_further() {
        let nested = |levels: usize| {
            let mut bytes = vec![0x81, 0xa1, b'a'];
            bytes.extend(std::iter::repeat_n(0x91, levels - 1));
            bytes.push(0xc0);
            bytes
        };
        assert_eq!(msgpack(&nested(MAX_DEPTH)), Ok(()));
        assert_eq!(msgpack(&nested(MAX_DEPTH + 1)), Err(WireError::TooDeep));
    }

    #[test]
    fn brackets_inside_json_texts_do_not_count() {
        let text = format!("{{\"a\":\"{}\\\"[\"}}", "[".repeat(100));
        assert_eq!(json(text.as_bytes()), Ok(()));
    }
}
