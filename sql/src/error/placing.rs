//! Where in a statement an error belongs that names what is wrong and not where.
//!
//! Types are checked, and topics looked up, long after the text was read, and what finds a fault there knows names alone. If
//! the statement has such a name once, that is the place; if it has it more often, no place is better than a wrong one.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::dialect::MillpondDialect;
use crate::error::{Position, Refusal, SqlError};

/// Words before a name that say what it is a name of.
const KINDS: [&str; 8] = [
    "function",
    "column",
    "topic",
    "view",
    "job",
    "schema",
    "alias",
    "savepoint",
];

impl SqlError {
    /// Gives an error the place of what it names, if the statement names it once.
    #[must_use]
    pub(crate) fn placed_in(mut self, sql: &str) -> Self {
        if let Self::Syntax(refusal)
        | Self::NotAllowed(refusal)
        | Self::Unknown(refusal)
        | Self::Invalid(refusal) = &mut self
            && refusal.position.is_none()
        {
            refusal.position = place(refusal, sql);
        }
        self
    }
}

fn place(refusal: &Refusal, sql: &str) -> Option<Position> {
    let tokens = Tokenizer::new(&MillpondDialect, sql).tokenize_with_location();
    let tokens: Vec<TokenWithSpan> = tokens
        .ok()?
        .into_iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_)))
        .collect();
    let names = named(&refusal.cause);
    let mut places = names.iter().filter_map(|name| only(name, &tokens));
    places.next()
}

/// The names in a sentence, the surest first: those behind a word for their kind, then those of a column with its table.
fn named(cause: &str) -> Vec<&str> {
    let words: Vec<&str> = cause
        .split([' ', ',', '(', ')', '\'', '"'])
        .filter(|word| !word.is_empty())
        .collect();
    let behind_kinds = words
        .windows(2)
        .filter(|pair| KINDS.contains(&pair[0]))
        .map(|pair| pair[1]);
    let with_tables = words.iter().copied().filter(|word| word.contains('.'));
    let names = behind_kinds.chain(with_tables);
    names
        .map(|name| name.rsplit('.').next().unwrap_or(name))
        .filter(|name| name.starts_with(|first: char| first.is_alphabetic() || first == '_'))
        .collect()
}

/// Where a name stands, if it does once.
fn only(name: &str, tokens: &[TokenWithSpan]) -> Option<Position> {
    let mut found = tokens.iter().enumerate().filter(|(at, token)| {
        let Token::Word(word) = &token.token else {
            return false;
        };
        let is_called = tokens
            .get(at + 1)
            .is_some_and(|next| next.token == Token::LParen);
        let is_name = word.keyword == Keyword::NoKeyword || word.quote_style.is_some() || is_called;
        match word.quote_style {
            Some(_) => word.value == name,
            // Words like `sum` and `order` are keywords, and names as well.
            None => word.value.eq_ignore_ascii_case(name) && (is_name || word.value == name),
        }
    });
    let (at, mut token) = found.next()?;
    if found.next().is_some() {
        return None;
    }
    // With its table before it, where both begin.
    if at >= 2
        && tokens
            .get(at - 1)
            .is_some_and(|dot| dot.token == Token::Period)
    {
        token = tokens.get(at - 2).unwrap_or(token);
    }
    let start = token.span.start;
    (start.line > 0).then_some(Position {
        line: start.line,
        column: start.column,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(sql: &str, cause: &str) -> Option<(u64, u64)> {
        let placed = SqlError::invalid(cause, "").placed_in(sql).position();
        placed.map(|position| (position.line, position.column))
    }

    #[test]
    fn a_name_that_stands_once_is_the_place_and_one_that_stands_twice_is_none() {
        let types = "function sum does not take arguments of these types";
        assert_eq!(placed("SELECT a,\n  sum(b) FROM t", types), Some((2, 3)));
        assert_eq!(placed("SELECT sum(a), sum(b) FROM t", types), None);
        let condition = "a condition is true or false, and t.a is VARCHAR";
        assert_eq!(placed("SELECT 1 FROM t WHERE a", condition), Some((1, 23)));
        assert_eq!(
            placed("SELECT 1 FROM t WHERE t.a", condition),
            Some((1, 23))
        );
        assert_eq!(placed("DROP TOPIC x", "there is no topic x"), Some((1, 12)));
        assert_eq!(placed("DROP TOPIC x", "nothing is named here"), None);
    }
}
