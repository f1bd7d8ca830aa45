//! The two user properties with which a producer numbers its messages, so that what it sends again is
//! stored once ([`broker::producer`](crate::broker::producer)). They stay among the properties, as every
//! property does.

use std::collections::BTreeMap;

use millpond_proto::limits;
use millpond_proto::property::{PRODUCER_ID, PRODUCER_SEQUENCE};
use millpond_proto::wire::rocketmq::Code;

use crate::service::code::Refusal;

/// Who sends, and which of its messages this is; none when the producer does not say.
///
/// # Errors
/// `ILLEGAL_MESSAGE_PROPERTY_KEY` when only one of the two is there, or one is not what it must be.
pub fn numbered(properties: &BTreeMap<String, String>) -> Result<Option<(String, u64)>, Refusal> {
    let illegal = |text: String| Err(Refusal::new(Code::IllegalMessagePropertyKey, text));
    let (id, sequence) = match (
        properties.get(PRODUCER_ID),
        properties.get(PRODUCER_SEQUENCE),
    ) {
        (None, None) => return Ok(None),
        (Some(id), Some(sequence)) => (id, sequence),
        (Some(_), None) => {
            return illegal(format!(
                "property {PRODUCER_ID:?} stands alone; number the message with \
                 {PRODUCER_SEQUENCE:?} too"
            ));
        }
        (None, Some(_)) => {
            return illegal(format!(
                "property {PRODUCER_SEQUENCE:?} stands alone; name the producer with \
                 {PRODUCER_ID:?} too"
            ));
        }
    };
    if id.is_empty() || id.len() > limits::PRODUCER_ID_BYTES_MAX {
        return illegal(format!(
            "property {PRODUCER_ID:?} has {} bytes, allowed are 1 to {}",
            id.len(),
            limits::PRODUCER_ID_BYTES_MAX
        ));
    }
    // Parquet keeps it as a signed number.
    match sequence.parse::<u64>() {
        Ok(number) if i64::try_from(number).is_ok() => Ok(Some((id.clone(), number))),
        _ => illegal(format!(
            "property {PRODUCER_SEQUENCE:?} is {sequence:?}; write a number from 0 to {}",
            i64::MAX
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<(String, u64)>, Code> {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        numbered(&pairs.collect()).map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_number_needs_its_producer_and_the_other_way_round() {
        assert_eq!(read(&[("other", "1")]), Ok(None));
        let both = read(&[(PRODUCER_ID, "till-7"), (PRODUCER_SEQUENCE, "42")]);
        assert_eq!(both, Ok(Some(("till-7".to_owned(), 42))));
        let long = "p".repeat(limits::PRODUCER_ID_BYTES_MAX + 1);
        for bad in [
            vec![(PRODUCER_ID, "a")],
            vec![(PRODUCER_SEQUENCE, "1")],
            vec![(PRODUCER_ID, ""), (PRODUCER_SEQUENCE, "1")],
            vec![(PRODUCER_ID, long.as_str()), (PRODUCER_SEQUENCE, "1")],
            vec![(PRODUCER_ID, "a"), (PRODUCER_SEQUENCE, "-1")],
            vec![
                (PRODUCER_ID, "a"),
                (PRODUCER_SEQUENCE, "9223372036854775808"),
            ],
        ] {
            assert_eq!(read(&bad), Err(Code::IllegalMessagePropertyKey), "{bad:?}");
        }
    }
}
