//! The wire format of Protobuf, field by field (protobuf.dev, Encoding).

use crate::format::fit::Bad;

/// Deepest nesting of groups, which are skipped.
const GROUPS_DEEP_MAX: usize = 64;

/// The value of a field as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wire<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
    /// A group, skipped.
    Group,
}

/// Fields of a message, in the order of the wire.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Bad> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (number, kind) = self.tag()?;
        if kind == 4 {
            return Err("a group ends that did not begin".into());
        }
        let value = self.value(number, kind, 0)?;
        Ok(Some((number, value)))
    }

    fn tag(&mut self) -> Result<(u32, u64), Bad> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| "a field's number is too large")?;
        if number == 0 {
            return Err("a field has the number 0".into());
        }
        Ok((number, tag & 7))
    }

    fn value(&mut self, number: u32, kind: u64, depth: usize) -> Result<Wire<'a>, Bad> {
        Ok(match kind {
            0 => Wire::Varint(self.varint()?),
            1 => match self.take(8)?.first_chunk::<8>() {
                Some(bytes) => Wire::Fixed64(*bytes),
                None => return Err(ends()),
            },
            2 => {
                let size = usize::try_from(self.varint()?).map_err(|_| ends())?;
                Wire::Bytes(self.take(size)?)
            }
            3 => {
                if depth > GROUPS_DEEP_MAX {
                    return Err("groups are nested too deep".into());
                }
                loop {
                    let (inner, kind) = self.tag()?;
                    if kind == 4 {
                        if inner == number {
                            return Ok(Wire::Group);
                        }
                        return Err("a group ends that did not begin".into());
                    }
                    self.value(inner, kind, depth + 1)?;
                }
            }
            5 => match self.take(4)?.first_chunk::<4>() {
                Some(bytes) => Wire::Fixed32(*bytes),
                None => return Err(ends()),
            },
            other => return Err(format!("field {number} has the unknown wire type {other}").into()),
        })
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Bad> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(ends)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Bad> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or_else(ends)?;
            self.rest = rest;
            if shift == 63 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is longer than 64 bits".into())
    }
}

fn ends() -> Bad {
    "the body ends within a field".into()
}
