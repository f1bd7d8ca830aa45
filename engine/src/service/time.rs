//! Times on the wire: timestamps, durations, deadlines, and how long a poll may wait.
//!
//! Nothing here overflows: clients send deadlines of 60 years and more.

use std::time::Duration;

use millpond_proto::limits;
use millpond_proto::time::Timestamp;
use millpond_proto::wire::rocketmq::Code;
use tonic::metadata::MetadataMap;

use crate::service::code::Refusal;

/// Shortest poll that is derived from a deadline.
const POLL_MS_MIN: i64 = 5_000;
/// Longest timeout that is told apart from none: a hundred years.
const TIMEOUT_MS_MAX: u64 = 100 * 366 * 24 * 60 * 60 * 1000;
/// First client version that knows `ILLEGAL_POLLING_TIME`.
const POLLING_CODE_SINCE: [u32; 3] = [5, 0, 3];

/// A timestamp as protobuf has it.
///
/// # Panics
/// Never: what is left of a second fits.
#[must_use]
pub fn to_wire(at: Timestamp) -> prost_types::Timestamp {
    let nanos = at.0.rem_euclid(1000) * 1_000_000;
    prost_types::Timestamp {
        seconds: at.0.div_euclid(1000),
        nanos: i32::try_from(nanos).expect("less than a second"),
    }
}

/// A protobuf timestamp in our milliseconds; out of range is cut to it.
#[must_use]
pub fn from_wire(at: &prost_types::Timestamp) -> Timestamp {
    let ms = at.seconds.saturating_mul(1000);
    Timestamp(ms.saturating_add(i64::from(at.nanos / 1_000_000)))
}

/// Milliseconds of a protobuf duration; out of range is cut to it.
#[must_use]
pub fn duration_ms(duration: &prost_types::Duration) -> i64 {
    let ms = duration.seconds.saturating_mul(1000);
    ms.saturating_add(i64::from(duration.nanos / 1_000_000))
}

/// A protobuf duration of so many milliseconds.
///
/// # Panics
/// Never: what is left of a second fits.
#[must_use]
pub fn wire_duration(ms: i64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: ms / 1000,
        nanos: i32::try_from(ms % 1000 * 1_000_000).expect("less than a second"),
    }
}

/// A duration of so many milliseconds; negative ones are zero.
#[must_use]
pub fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// What is left of a call's deadline when it arrives: the header `grpc-timeout`.
///
/// `None` without one, and for one that is no timeout (at most 8 digits and a unit): such a call has no
/// deadline, as tonic takes it too.
#[must_use]
pub fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    let ms = match unit {
        "H" => value.saturating_mul(3_600_000),
        "M" => value.saturating_mul(60_000),
        "S" => value.saturating_mul(1000),
        "m" => value,
        "u" => value / 1000,
        "n" => value / 1_000_000,
        _ => return None,
    };
    Some(Duration::from_millis(ms.min(TIMEOUT_MS_MAX)))
}

/// What decides how long a poll waits.
#[derive(Clone, Copy, Debug)]
pub struct Poll<'a> {
    /// `long_polling_timeout` of the request, in ms.
    pub asked_ms: Option<i64>,
    /// What is left of the deadline.
    pub deadline: Option<Duration>,
    /// The client's timeout for ordinary calls, in ms.
    pub request_timeout_ms: i64,
    /// `x-mq-client-version`.
    pub client_version: &'a str,
}

impl Poll<'_> {
    /// How long to wait for a first message, so that the answer arrives before the deadline.
    ///
    /// A wait that the client names is kept up to the longest; one derived from the deadline is
    /// brought between 5 and 20 s. A short wait that the client names is not lengthened: it asked for
    /// its answer sooner, and a client with a short deadline is served that way.
    ///
    /// # Errors
    /// `ILLEGAL_POLLING_TIME` (`BAD_REQUEST` for clients before 5.0.3) when less than 5 s are left and
    /// the wait does not fit.
    pub fn wait(self) -> Result<Duration, Refusal> {
        let left_ms = self.deadline.map_or(i64::MAX, |deadline| {
            i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX)
        });
        let wait_ms = match self.asked_ms {
            Some(asked_ms) => asked_ms.clamp(0, limits::POLL_MS_MAX),
            None => left_ms
                .saturating_sub(self.request_timeout_ms / 2)
                .clamp(POLL_MS_MIN, limits::POLL_MS_MAX),
        };
        let usable_ms = left_ms.saturating_sub(limits::POLL_MARGIN_MS);
        if wait_ms <= usable_ms {
            return Ok(millis(wait_ms));
        }
        if left_ms >= POLL_MS_MIN {
            return Ok(millis(usable_ms));
        }
        let code = if version(self.client_version) >= POLLING_CODE_SINCE {
            Code::IllegalPollingTime
        } else {
            Code::BadRequest
        };
        Err(Refusal::new(
            code,
            format!(
                "the call's deadline leaves {left_ms} ms, too little to wait {wait_ms} ms for \
                 messages; raise the deadline or shorten the wait"
            ),
        ))
    }
}

fn version(text: &str) -> [u32; 3] {
    let mut parts = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> Option<Duration> {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", value.parse().unwrap());
        timeout(&metadata)
    }

    fn wait(asked_ms: Option<i64>, left_ms: Option<u64>) -> Result<u128, Code> {
        let poll = Poll {
            asked_ms,
            deadline: left_ms.map(Duration::from_millis),
            request_timeout_ms: 3000,
            client_version: "5.2.1",
        };
        poll.wait()
            .map(|wait| wait.as_millis())
            .map_err(|refusal| refusal.code)
    }

    #[test]
    fn every_unit_of_a_deadline_is_read() {
        assert_eq!(header("3S"), Some(Duration::from_secs(3)));
        assert_eq!(header("23000000u"), Some(Duration::from_secs(23)));
        assert_eq!(header("5M"), Some(Duration::from_secs(300)));
        assert_eq!(header("99999999n"), Some(Duration::from_millis(99)));
    }

    #[test]
    fn deadlines_of_many_years_do_not_overflow() {
        let sixty_years = header("525960H").unwrap();
        assert_eq!(sixty_years.as_secs(), 525_960 * 3600);
        let longest = header("99999999H").unwrap();
        assert_eq!(
            wait(None, Some(u64::try_from(longest.as_millis()).unwrap())),
            Ok(20_000)
        );
        assert_eq!(wait(Some(i64::MAX), Some(u64::MAX)), Ok(20_000));
    }

    #[test]
    fn what_is_no_deadline_counts_as_none() {
        for text in ["", "S", "123456789S", "5", "5X", "-5S", "+5S", "5é"] {
            let Ok(value) = text.parse() else { continue };
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", value);
            assert_eq!(timeout(&metadata), None, "{text}");
        }
    }

    #[test]
    fn a_poll_waits_as_the_contract_says() {
        // Named by the client, with room to spare.
        assert_eq!(wait(Some(20_000), Some(23_000)), Ok(20_000));
        assert_eq!(wait(Some(30_000), Some(33_000)), Ok(20_000));
        // Derived from the deadline: less half of the request timeout, 5 to 20 s.
        assert_eq!(wait(None, Some(23_000)), Ok(20_000));
        assert_eq!(wait(None, Some(10_000)), Ok(8_500));
        assert_eq!(wait(None, None), Ok(20_000));
        // The deadline equals the poll: answer before it.
        assert_eq!(wait(Some(15_000), Some(15_000)), Ok(14_700));
        // Short waits that are named are kept.
        assert_eq!(wait(Some(1_000), Some(4_000)), Ok(1_000));
        assert_eq!(wait(Some(0), Some(3_000)), Ok(0));
        assert_eq!(wait(Some(-5), Some(3_000)), Ok(0));
        // Too little is left.
        assert_eq!(
            wait(Some(20_000), Some(4_999)),
            Err(Code::IllegalPollingTime)
        );
        assert_eq!(wait(None, Some(3_000)), Err(Code::IllegalPollingTime));
    }

    #[test]
    fn old_clients_get_the_code_they_know() {
        let poll = Poll {
            asked_ms: None,
            deadline: Some(Duration::from_secs(1)),
            request_timeout_ms: 3000,
            client_version: "5.0.2-SNAPSHOT",
        };
        assert_eq!(poll.wait().unwrap_err().code, Code::BadRequest);
        assert!(version("5.0.3") >= POLLING_CODE_SINCE);
        assert!(version("5.10") >= POLLING_CODE_SINCE);
        assert!(version("unknown") < POLLING_CODE_SINCE);
    }

    #[test]
    fn timestamps_survive_the_wire() {
        for ms in [0, 1, 999, 1000, 1_700_000_000_123, -1, -1001] {
            assert_eq!(from_wire(&to_wire(Timestamp(ms))), Timestamp(ms), "{ms}");
        }
        let far = prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        };
        assert_eq!(from_wire(&far), Timestamp(i64::MAX));
    }
}
