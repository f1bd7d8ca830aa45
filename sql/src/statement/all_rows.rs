//! `TABLE t`: all rows of a topic, as `SELECT * FROM t`.
//!
//! The parser takes the word for a query, forgets the quotes of the name and passes over two words behind it, whatever they are: `TABLE t LIMIT 5` was all of
//! `t`. So the words are those of a `SELECT` before it reads them, wherever a query may begin: at the beginning of a text, behind
//! a bracket, `AS`, `EXPLAIN` or a set operator, and behind the topic of `INSERT INTO`.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Whitespace};

use crate::dialect::is_word;

/// Words behind which a query may begin.
const BEFORE: [&str; 11] = [
    "AS",
    "EXPLAIN",
    "ANALYZE",
    "VERBOSE",
    "UNION",
    "EXCEPT",
    "INTERSECT",
    "MINUS",
    "ALL",
    "DISTINCT",
    "COPY",
];

/// Words behind which a bracket is that of a query, and not of the arguments of a function: these have a `TABLE t` of their own.
const BEFORE_BRACKETS: [&str; 8] = [
    "FROM", "JOIN", "LATERAL", "IN", "EXISTS", "ANY", "SOME", "BY",
];

/// Writes every such query as `SELECT`.
pub(super) fn selected(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    if !tokens.iter().any(|token| is_word(&token.token, "TABLE")) {
        return tokens;
    }
    let mut written: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len() + 4);
    for (at, token) in tokens.iter().enumerate() {
        if !(is_word(&token.token, "TABLE") && begins(&tokens, at) && is_name(&tokens, at)) {
            written.push(token.clone());
            continue;
        }
        let words = [
            Token::make_keyword("SELECT"),
            Token::Mul,
            Token::make_keyword("FROM"),
        ];
        for word in words {
            for word in [word, Token::Whitespace(Whitespace::Space)] {
                written.push(TokenWithSpan::new(word, token.span));
            }
        }
    }
    written
}

/// The tokens before a place that are no white space, the last first.
fn before(tokens: &[TokenWithSpan], at: usize) -> impl Iterator<Item = &Token> {
    let before = tokens[..at].iter().rev().map(|token| &token.token);
    before.filter(|token| !matches!(token, Token::Whitespace(_)))
}

/// Whether a query may begin at a place.
fn begins(tokens: &[TokenWithSpan], at: usize) -> bool {
    let mut before = before(tokens, at);
    let Some(last) = before.next() else {
        return true;
    };
    if *last == Token::LParen {
        return match before.next() {
            Some(of @ Token::Word(_)) => {
                let mut words = BEFORE.iter().chain(&BEFORE_BRACKETS);
                words.any(|word| is_word(of, word))
            }
            _ => true,
        };
    }
    BEFORE.iter().any(|word| is_word(last, word)) || is_inserted(tokens, at)
}

/// Whether all that stands before a place is `INSERT INTO t` or `INSERT INTO t (a, b)`.
fn is_inserted(tokens: &[TokenWithSpan], at: usize) -> bool {
    let words: Vec<&Token> = before(tokens, at).collect();
    let mut words = words.into_iter().rev();
    // A job begins with what it is called.
    let mut inserts = words.any(|word| is_word(word, "INSERT"));
    inserts &= words.next().is_some_and(|word| is_word(word, "INTO"));
    let name = words.next();
    let rest: Vec<&Token> = words.collect();
    let is_list = rest.first() == Some(&&Token::LParen)
        && rest.iter().position(|token| **token == Token::RParen) == Some(rest.len() - 1);
    inserts && matches!(name, Some(Token::Word(_))) && (rest.is_empty() || is_list)
}

/// Whether the word is followed by a name.
fn is_name(tokens: &[TokenWithSpan], at: usize) -> bool {
    let mut behind = tokens[at + 1..].iter().map(|token| &token.token);
    let name = behind.find(|token| !matches!(token, Token::Whitespace(_)));
    matches!(name, Some(Token::Word(_)))
}

#[cfg(test)]
mod tests {
    use crate::statement::parse_query;

    #[test]
    fn all_rows_of_a_topic_are_a_query_wherever_one_may_stand() {
        for (sql, plain) in [
            ("TABLE t", "SELECT * FROM t"),
            ("table \"Orders\"", "SELECT * FROM \"Orders\""),
            (
                "TABLE t ORDER BY n LIMIT 5",
                "SELECT * FROM t ORDER BY n LIMIT 5",
            ),
            ("TABLE t OFFSET 100", "SELECT * FROM t OFFSET 100"),
            (
                "TABLE t UNION ALL TABLE u",
                "SELECT * FROM t UNION ALL SELECT * FROM u",
            ),
            (
                "WITH x AS (TABLE t) SELECT * FROM x, (TABLE u) AS y",
                "WITH x AS (SELECT * FROM t) SELECT * FROM x, (SELECT * FROM u) AS y",
            ),
            (
                "SELECT n FROM t WHERE n IN (TABLE u)",
                "SELECT n FROM t WHERE n IN (SELECT * FROM u)",
            ),
        ] {
            let written =
                parse_query(sql).map_or_else(|error| error.to_string(), |query| query.to_string());
            assert_eq!(written, plain, "{sql}");
        }
    }
}
