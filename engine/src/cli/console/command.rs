//! Commands of the prompt: what begins with a backslash, by the letters of psql.
//!
//! Most are statements in short, and are done as those. [`COMMANDS`] is all there is; help is made of it.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::ValueEnum as _;

use crate::cli::output::Format;
use crate::cli::sql::quoted;

/// Each command, what may stand behind it, and what it does.
const COMMANDS: [(&str, &str, &str); 11] = [
    ("\\d", "[NAME]", "topics and views, or the columns of one"),
    ("\\dv", "", "plain views"),
    ("\\dj", "", "continuous queries"),
    ("\\dg", "", "consumer groups"),
    ("\\df", "", "functions"),
    ("\\x", "", "a line a column, on and off"),
    ("\\format", "NAME", "table, vertical, json or csv"),
    ("\\timing", "", "tell how long statements take, on and off"),
    ("\\i", "FILE", "do the statements of a file"),
    ("\\?", "", "this help"),
    ("\\q", "", "leave, as Ctrl-D does"),
];

/// What was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Statements.
    Statements(String),
    /// The statements of a file.
    File(PathBuf),
    /// Answers are shown so from now on; `None`: vertically, or as a table again.
    Show(Option<Format>),
    /// Tells times, or no longer.
    Time,
    Help,
    Leave,
    /// There is none of that name, or something else has to stand behind it.
    Unknown(String),
}

impl Command {
    /// What a text asks for.
    pub(super) fn of(text: &str) -> Self {
        let trimmed = text.trim();
        let (word, rest) = match trimmed.split_once(char::is_whitespace) {
            Some((word, rest)) => (word, rest.trim().trim_end_matches(';')),
            None => (trimmed.trim_end_matches(';'), ""),
        };
        let statement = |sql: &str| Self::Statements(sql.to_owned());
        match (word, rest) {
            ("\\q" | "exit" | "quit", "") => Self::Leave,
            ("\\?" | "\\h" | "help", "") => Self::Help,
            ("\\d" | "\\dt", "") => statement("SHOW TOPICS;"),
            ("\\d", name) => Self::Statements(format!("DESCRIBE {};", quoted(name))),
            ("\\dv", "") => statement("SHOW VIEWS;"),
            ("\\dj", "") => statement("SHOW JOBS;"),
            ("\\dg", "") => statement("SELECT * FROM millpond.groups;"),
            ("\\df", "") => statement("SHOW FUNCTIONS;"),
            ("\\x", "") => Self::Show(None),
            ("\\timing", "") => Self::Time,
            ("\\format", name) => match Format::from_str(name, true) {
                Ok(format) => Self::Show(Some(format)),
                Err(_) => Self::Unknown(trimmed.to_owned()),
            },
            ("\\i", file) if !file.is_empty() => Self::File(file.into()),
            _ if trimmed.starts_with('\\') => Self::Unknown(trimmed.to_owned()),
            _ => Self::Statements(text.to_owned()),
        }
    }
}

/// Whether a text is done when its line ends, without a semicolon.
pub(super) fn is_command(text: &str) -> bool {
    !matches!(Command::of(text), Command::Statements(_)) || text.trim_start().starts_with('\\')
}

/// What there is, a line a command.
pub(super) fn help() -> String {
    let mut text = "End a statement with a semicolon. Tab completes, Ctrl-R looks through what was typed, Ctrl-C cancels \
                    a statement.\n  SELECT count(*) FROM flights;\n  SELECT * FROM flights EMIT CHANGES;"
        .to_owned();
    for (name, argument, what) in COMMANDS {
        let _ = write!(text, "\n  {:16}{what}", format!("{name} {argument}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_command_is_a_statement() {
        for text in [
            "SELECT 1;",
            " SHOW TOPICS ;",
            "exit the loop;",
            "SELECT '\\d';",
        ] {
            assert_eq!(Command::of(text), Command::Statements(text.to_owned()));
            assert!(!is_command(text), "{text}");
        }
    }

    #[test]
    fn letters_stand_for_statements() {
        let statement = |text: &str| match Command::of(text) {
            Command::Statements(sql) => sql,
            other => panic!("{text} is {other:?}"),
        };
        assert_eq!(statement("\\d"), "SHOW TOPICS;");
        assert_eq!(statement("\\d;"), "SHOW TOPICS;");
        assert_eq!(statement("\\d my\"topic"), "DESCRIBE \"my\"\"topic\";");
        assert_eq!(statement(" \\dj "), "SHOW JOBS;");
        assert!(is_command("\\dj"));
    }

    #[test]
    fn a_wrong_command_is_told_and_not_sent() {
        for text in ["\\nothing", "\\i", "\\format xml", "\\timing soon"] {
            assert_eq!(Command::of(text), Command::Unknown(text.to_owned()));
        }
        assert_eq!(
            Command::of("\\format JSON"),
            Command::Show(Some(Format::Json))
        );
    }

    #[test]
    fn each_command_of_the_help_is_one() {
        for (name, argument, _) in COMMANDS {
            let text = match argument {
                "NAME" => format!("{name} csv"),
                "" | "[NAME]" => name.to_owned(),
                other => format!("{name} {other}"),
            };
            assert!(!matches!(Command::of(&text), Command::Unknown(_)), "{text}");
            assert!(is_command(&text), "{text}");
            assert!(help().contains(name));
        }
    }
}
