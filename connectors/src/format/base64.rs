//! Base64 as texts carry bytes (RFC 4648, section 4).
//!
//! What is written is padded. What is read may lack its padding and may hold line ends and spaces, as tools that wrap
//! long lines write them.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes of a text; `None` when it is none of base64.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    ENGINE.decode(digits).ok()
}

/// The text of bytes, padded.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    ENGINE.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_without_padding_and_with_line_ends_are_read() {
        assert_eq!(encode(b"foob"), "Zm9vYg==");
        assert_eq!(decode("Zm9vYg==").as_deref(), Some(b"foob".as_slice()));
        assert_eq!(decode("Zg"), Some(b"f".to_vec()));
        assert_eq!(decode("Zm9v\nYmFy"), Some(b"foobar".to_vec()));
        for wrong in ["Z", "Zh==", "Zg=a", "Z?==", "ä"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
