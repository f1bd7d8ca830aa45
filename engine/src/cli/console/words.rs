//! Words of statements: which have a colour, and which can be completed.
//!
//! Colours follow the same simple rules by which statements are cut: quotes, comments, numbers, words. Whether a statement is
//! right the server says.

use std::sync::{Arc, PoisonError, RwLock};

use reedline::{Color, Completer, CompletionResult, Highlighter, Span, StyledText, Suggestion};

/// Words that are shown as such and completed.
const KEYWORDS: &str = "\
    ALL ALTER ANALYZE AND ANY AS ASC ASOF BETWEEN BIGINT BOOLEAN BY CANCEL CASE CAST CHANGES CLOSE COPY CREATE \
    CROSS CUBE CUMULATE CURRENT_TIMESTAMP CURSOR DATE DAY DECIMAL DESC DESCRIBE DESCRIPTOR DISTINCT DOUBLE DROP \
    ELSE EMIT END EVERY EXCEPT EXISTS EXPLAIN FALSE FETCH FILTER FIRST FOR FROM FULL FUNCTIONS GROUP GROUPING \
    HAVING HOP HOUR IF IN INNER INSERT INT INTERSECT INTERVAL INTO IS JOB JOBS JOIN KEY LAST LEFT LIKE LIMIT \
    MATERIALIZED MINUTE NOT NOW NULL NULLS OFFSET ON OR ORDER OUTER OVER PARTITION PAUSE PRIMARY QUALIFY RESUME \
    RIGHT ROLLUP SAVEPOINT SAVEPOINTS SCHEMA SECOND SELECT SESSION SET SETS SHOW SINK STOP SUBSCRIBE SYSTEM_TIME \
    TABLE THEN TIMESTAMP TOPIC TOPICS TRUE TUMBLE UNION USING VALUES VARCHAR VIEW VIEWS WATERMARK WHEN WHERE WITH";
const COMPLETIONS_MAX: usize = 60;

fn keywords() -> impl Iterator<Item = &'static str> {
    KEYWORDS.split(' ')
}

/// What is known of the server's names.
#[derive(Debug, Default)]
pub(super) struct Words {
    names: RwLock<Vec<String>>,
}

impl Words {
    /// Replaces the names of topics, views and columns.
    pub(super) fn learn(&self, mut names: Vec<String>) {
        names.sort_unstable();
        names.dedup();
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// What a word that was begun may become, names first; keywords in the case that it was begun in.
    fn completions(&self, begun: &str) -> Vec<String> {
        let starts = |word: &str| {
            let head = word.get(..begun.len());
            head.is_some_and(|head| head.eq_ignore_ascii_case(begun))
        };
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let names = names.iter().filter(|name| starts(name)).cloned();
        let is_lower = begun.chars().any(|c| c.is_ascii_lowercase());
        let keywords = keywords().filter(|word| starts(word));
        let keywords = keywords.map(|word| match is_lower {
            true => word.to_ascii_lowercase(),
            false => word.to_owned(),
        });
        names.chain(keywords).take(COMPLETIONS_MAX).collect()
    }
}

/// Completes the word before the cursor.
pub(super) struct Completed(pub(super) Arc<Words>);

impl Completer for Completed {
    fn complete(&mut self, line: &str, at: usize) -> CompletionResult {
        let before = line.get(..at).unwrap_or(line);
        let start = before.rfind(|c: char| !is_of_word(c)).map_or(0, |end| {
            end + before[end..].chars().next().map_or(0, char::len_utf8)
        });
        let begun = &before[start..];
        let found = match begun {
            "" => Vec::new(),
            begun => self.0.completions(begun),
        };
        let suggestions = found.into_iter().map(|value| Suggestion {
            value,
            span: Span::new(start, at),
            append_whitespace: true,
            ..Suggestion::default()
        });
        CompletionResult::fresh(suggestions.collect::<Vec<_>>())
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Gives keywords, texts, numbers and comments a colour.
pub(super) struct Coloured;

impl Highlighter for Coloured {
    fn highlight(&self, text: &str, _cursor: usize) -> StyledText {
        let mut styled = StyledText::new();
        for (kind, piece) in pieces(text) {
            let style = match kind {
                Kind::Keyword => Color::Blue.bold(),
                Kind::Text => Color::Green.normal(),
                Kind::Number => Color::Cyan.normal(),
                Kind::Comment => Color::DarkGray.normal(),
                Kind::Other => Color::Default.normal(),
            };
            styled.push((style, piece.to_owned()));
        }
        styled
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Keyword,
    Text,
    Number,
    Comment,
    Other,
}

/// A text with a space in the place of each comment; one that has not ended stays.
pub(in crate::cli) fn without_comments(text: &str) -> String {
    let has_ended = |comment: &str| {
        comment.starts_with("--") || (comment.len() >= 4 && comment.ends_with("*/"))
    };
    let pieces = pieces(text).into_iter();
    let kept = pieces.map(|(kind, piece)| match kind {
        Kind::Comment if has_ended(piece) => " ",
        _ => piece,
    });
    kept.collect()
}

/// A text in pieces of one kind, which together are the text.
fn pieces(text: &str) -> Vec<(Kind, &str)> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let ends = |end: &str, from: usize| {
            rest[from..]
                .find(end)
                .map_or(rest.len(), |at| from + at + end.len())
        };
        let word = || rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
        let (kind, length) = match first {
            '\'' => (Kind::Text, ends("'", 1)),
            '"' => (Kind::Other, ends("\"", 1)),
            '-' if rest.starts_with("--") => (Kind::Comment, ends("\n", 2)),
            '/' if rest.starts_with("/*") => (Kind::Comment, ends("*/", 2)),
            c if c.is_ascii_digit() => (Kind::Number, word()),
            c if is_of_word(c) => {
                let length = word();
                let upper = rest[..length].to_ascii_uppercase();
                let is_keyword = keywords().any(|word| word == upper);
                let kind = if is_keyword {
                    Kind::Keyword
                } else {
                    Kind::Other
                };
                (kind, length)
            }
            c => (Kind::Other, c.len_utf8()),
        };
        let (piece, after) = rest.split_at(length);
        pieces.push((kind, piece));
        rest = after;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_complete_to_names_and_to_keywords_in_their_case() {
        let words = Words::default();
        words.learn(vec![
            "selling".to_owned(),
            "orders".to_owned(),
            "orders".to_owned(),
        ]);
        assert_eq!(words.completions("SEL"), ["selling", "SELECT"]);
        assert_eq!(words.completions("sel"), ["selling", "select"]);
        assert_eq!(words.completions("ord"), ["orders", "order"]);
        assert!(words.completions("é").is_empty());
    }

    #[test]
    fn the_word_before_the_cursor_is_completed() {
        let words = Arc::new(Words::default());
        words.learn(vec!["flights".to_owned()]);
        let line = "SELECT 'é' FROM fli WHERE";
        let at = line.find(" WHERE").unwrap();
        let found = Completed(words).complete(line, at).into_shared().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].value, "flights");
        assert_eq!(&line[found[0].span.start..found[0].span.end], "fli");
    }

    #[test]
    fn pieces_are_the_text_again_whatever_it_is() {
        for text in [
            "SELECT 'a;b' -- no\n, 12.5 FROM \"T é\" /* x",
            "'",
            "--",
            "/*",
            "é'é",
        ] {
            let found = pieces(text);
            let joined: String = found.iter().map(|(_, piece)| *piece).collect();
            assert_eq!(joined, text);
        }
        let kinds = pieces("select 'x' 1").into_iter().map(|(kind, _)| kind);
        let kinds: Vec<Kind> = kinds.filter(|kind| *kind != Kind::Other).collect();
        assert_eq!(kinds, [Kind::Keyword, Kind::Text, Kind::Number]);
    }
}
