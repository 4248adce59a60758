//! Segments of a path: decoded once, checked, and written in one spelling.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::{MAXIMUM_PATH, PathError, Target};

/// One segment: as it came, and decoded.
#[derive(Debug, Clone)]
pub(super) struct Segment<'a> {
    raw: &'a str,
    text: Cow<'a, str>,
}

impl Segment<'_> {
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

/// Splits a raw path. Control characters, broken escapes and broken UTF-8 are refused wherever they stand;
/// so are bytes that a request line may not hold at all.
pub(super) fn split(raw: &str) -> Result<Vec<Segment<'_>>, PathError> {
    if raw.len() > MAXIMUM_PATH {
        return Err(PathError::TooLong);
    }
    let inner = raw.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() {
        return if raw.len() > 1 {
            Err(PathError::EmptySegment)
        } else {
            Ok(Vec::new())
        };
    }
    inner.split('/').map(decode).collect()
}

fn decode(raw: &str) -> Result<Segment<'_>, PathError> {
    if raw
        .bytes()
        .any(|byte| byte <= b' ' || byte >= 0x7f || matches!(byte, b'\\' | b'#'))
    {
        return Err(PathError::BadCharacter);
    }
    if !raw.contains('%') {
        return Ok(Segment {
            raw,
            text: Cow::Borrowed(raw),
        });
    }
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let pair = (bytes.next(), bytes.next());
            let (Some(high), Some(low)) = pair else {
                return Err(PathError::BadEscape);
            };
            if !high.is_ascii_hexdigit() || !low.is_ascii_hexdigit() {
                return Err(PathError::BadEscape);
            }
        }
    }
    // Overlong forms and surrogates are not UTF-8 to this decoder, so they end here.
    let text = percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| PathError::BadCharacter)?;
    if text.chars().any(char::is_control) {
        return Err(PathError::BadCharacter);
    }
    Ok(Segment { raw, text })
}

/// Checks the segments that decide.
pub(super) fn check(segments: &[Segment<'_>]) -> Result<(), PathError> {
    for segment in segments {
        match segment.text() {
            "" => return Err(PathError::EmptySegment),
            "." | ".." => return Err(PathError::DotSegment),
            text if text.contains(['/', '\\', '%', ';', '?', '#']) => {
                return Err(PathError::BadCharacter);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks the segments that belong to an application behind a `proxy` subresource: whatever an application
/// may want, but nothing that a cleaner of paths on the way could resolve to another target.
pub(super) fn check_tail(segments: &[Segment<'_>]) -> Result<(), PathError> {
    for segment in segments {
        let climbs = |text: &str| {
            text.split(['/', '\\'])
                .any(|part| matches!(part.split(';').next().unwrap_or(part), "." | ".."))
        };
        if climbs(segment.text()) {
            return Err(PathError::DotSegment);
        }
    }
    Ok(())
}

/// The index of the first segment that is not ours to judge: what follows the `proxy` subresource of a named
/// object, or the named object of the old `proxy` verb. Without such, the number of segments.
pub(super) fn opaque_from(target: &Target, segments: &[Segment<'_>]) -> usize {
    let kept = if target.is_resource && target.verb == "proxy" {
        2
    } else if target.is_resource && target.subresource == "proxy" {
        3
    } else {
        return segments.len();
    };
    let deeper = target.parts.len().saturating_sub(kept);
    segments.len().saturating_sub(deeper)
}

/// Writes a path: segments before `opaque` in the one spelling, the others as they came.
pub(super) fn join(segments: &[Segment<'_>], opaque: usize, trailing: bool) -> String {
    let mut path = String::with_capacity(64);
    for (index, segment) in segments.iter().enumerate() {
        path.push('/');
        if index < opaque {
            encode(&segment.text, &mut path);
        } else {
            path.push_str(segment.raw);
        }
    }
    if trailing || segments.is_empty() {
        path.push('/');
    }
    path
}

/// Percent-encodes all but what RFC 3986 §3.3 lets stand in a segment.
fn encode(text: &str, out: &mut String) {
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    }
}
