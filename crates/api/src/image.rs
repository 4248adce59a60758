//! References to container images, as `hub.agentImage` has one.

use std::{fmt, str::FromStr};

/// Longer than any registry takes.
const LONGEST: usize = 512;

/// A reference to an image: `[REGISTRY[:PORT]/]PATH[:TAG][@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image(String);

/// A text that is no reference to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a reference to an image, like registry.example.org:5000/kah:0.1.0: letters, digits and . _ - / : @, at most {LONGEST}, beginning and ending with a letter or digit"
)]
pub struct NoImage;

impl Image {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Image {
    type Err = NoImage;

    fn from_str(text: &str) -> Result<Self, NoImage> {
        let may_be_in = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
        let plain = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        let good = (1..=LONGEST).contains(&text.len())
            && text.bytes().all(may_be_in)
            && plain(text.bytes().next())
            && plain(text.bytes().next_back())
            && !["//", "::", "@@"].iter().any(|twice| text.contains(twice));
        good.then(|| Self(text.to_owned())).ok_or(NoImage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_to_images() {
        for (text, good) in [
            ("kah", true),
            ("kubeaihub.io/kah:0.1.0", true),
            ("registry.example.org:5000/a/b_c/kah:v1-rc.1", true),
            ("r.example.org/kah@sha256:0123456789abcdef", true),
            ("", false),
            (" kah", false),
            ("kah\n", false),
            ("kah: x", false),
            ("kah\u{0}", false),
            ("käh", false),
            ("kah:", false),
            ("/kah", false),
            ("a//b", false),
            ("-kah", false),
            ("{{kah}}", false),
            ("\"kah\"", false),
            ("kah\u{85}x", false),
            (&"a".repeat(LONGEST), true),
            (&"a".repeat(LONGEST + 1), false),
        ] {
            assert_eq!(text.parse::<Image>().is_ok(), good, "{text:?}");
        }
    }
}
