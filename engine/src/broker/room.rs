//! What is refused while the log has too little room: the one place that tells kinds of requests apart by it.
//!
//! Messages go first. What is small and lets messages go (deliveries, acknowledgements, offsets) stays possible in a
//! reserve, and what makes room, looks, or ends something is never refused.

use crate::broker::request::Request;

/// How badly a request needs the log to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// It stores messages: refused first.
    Messages,
    /// It notes something of messages that are there: refused when the reserve is used up.
    Notes,
    /// It makes room, or changes nothing: never refused.
    Nothing,
}

impl Need {
    pub(super) fn of(request: &Request) -> Self {
        match request {
            Request::Send(_) | Request::Effect(_) | Request::Shelve(_) => Self::Messages,
            Request::EndHalf(end) if end.commit => Self::Messages,
            Request::Pop(_)
            | Request::PopLite(_)
            | Request::StartLite(_)
            | Request::Ack(_)
            | Request::Move(_)
            | Request::Renew(_)
            | Request::NoteOffset(_)
            | Request::Commit(_)
            | Request::CreateTopic(_)
            | Request::CreateGroup(_)
            | Request::CreateJob(_)
            | Request::CloneGroup(_)
            | Request::Bury(_)
            | Request::Place(_)
            | Request::Reopen(_)
            | Request::Recall(_)
            | Request::Checked(_)
            | Request::EndHalf(_) => Self::Notes,
            _ => Self::Nothing,
        }
    }
}
