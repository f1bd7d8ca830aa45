//! What the one who gets an error should do about it.

/// The reader's next step; every public error of every crate answers one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Remedy {
    /// The request is wrong: change it, sending it again will not help.
    FixRequest,
    /// Try the same request again, after a pause.
    Retry,
    /// Send the same request to the one named in the error.
    Redirect,
    /// Whoever runs the server must act: disk, permissions, damage.
    Operator,
    /// An error of ours: please report it.
    Bug,
}
