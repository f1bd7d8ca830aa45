//! Refusals of the parser: where the text went wrong, and what may have been meant.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::dialect::is_word;
use crate::error::{Position, Refusal, SqlError, nearest};
use crate::statement::foreign;
use crate::statement::parser::{DEPTH_MAX, StatementParser};

/// What is allowed, as a refusal lists it.
pub(super) const ALLOWED: &str = "allowed are SELECT, WITH, VALUES, EXPLAIN, CREATE TOPIC, CREATE VIEW, \
     CREATE MATERIALIZED VIEW, CREATE JOB, CREATE SINK, ALTER TOPIC, ALTER MATERIALIZED VIEW, ALTER JOB, DROP TOPIC, DROP VIEW, DROP MATERIALIZED VIEW, DROP JOB, \
     CANCEL JOB, PAUSE JOB, RESUME JOB, CREATE SAVEPOINT, STOP JOB … WITH SAVEPOINT, DROP SAVEPOINT, COPY … TO, INSERT INTO, SUBSCRIBE, SHOW TOPICS, SHOW COLUMNS and other SHOW, DESCRIBE";

/// First words of statements, for suggestions.
const FIRST_WORDS: [&str; 18] = [
    "SUBSCRIBE",
    "SELECT",
    "WITH",
    "VALUES",
    "EXPLAIN",
    "CREATE",
    "ALTER",
    "DROP",
    "CANCEL",
    "PAUSE",
    "RESUME",
    "STOP",
    "COPY",
    "INSERT",
    "SHOW",
    "DESCRIBE",
    "DESC",
    "TABLE",
];

/// Words that a misspelt one may have meant where the parser stopped.
const CLAUSE_WORDS: [&str; 24] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP",
    "ORDER",
    "HAVING",
    "LIMIT",
    "OFFSET",
    "JOIN",
    "UNION",
    "BETWEEN",
    "VALUES",
    "WATERMARK",
    "TUMBLE",
    "DESCRIPTOR",
    "INTERVAL",
    "EMIT",
    "CHANGES",
    "WINDOW",
    "CLOSE",
    "TOPIC",
    "MATERIALIZED",
    "VIEW",
    "WITH",
];

/// How many words may follow each other without comma or parenthesis.
pub const CHAIN_TOKENS_MAX: usize = 2000;

/// Most queries that `UNION`, `EXCEPT` and `INTERSECT` put together side by side.
pub const SET_OPERATIONS_MAX: usize = 500;
const SET_OPERATORS: [&str; 4] = ["UNION", "EXCEPT", "INTERSECT", "MINUS"];

impl StatementParser<'_> {
    pub(super) fn syntax(&self, error: ParserError) -> SqlError {
        let text = match error {
            ParserError::RecursionLimitExceeded => {
                return SqlError::Limit {
                    limit: "DEPTH_MAX",
                    value: format!("{DEPTH_MAX} levels"),
                    advice: "nest fewer parentheses and subqueries",
                };
            }
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        };
        let (cause, position) = split_position(&text);
        // The word that stopped the parser, or the one before it, may be a misspelt keyword.
        let near = [
            self.parser.peek_token(),
            self.parser.get_current_token().clone(),
        ]
        .iter()
        .find_map(|token| keyword_meant(&token.token));
        let suggestion = if foreign::has_window_clause(self.sql) {
            foreign::clause(&Token::make_keyword("WINDOW")).map(str::to_owned)
        } else if cause.ends_with("found: `") {
            Some("write names in double quotes, or without any".to_owned())
        } else {
            near.map(|near| format!("did you mean {near}?"))
        };
        SqlError::Syntax(Refusal {
            position,
            cause,
            suggestion,
        })
    }

    pub(super) fn unexpected(&self, expected: &str) -> SqlError {
        let found = self.parser.peek_token();
        let clause = match &found.token {
            token if is_word(token, "ON") => {
                foreign::clause(&self.parser.peek_nth_token_ref(1).token)
            }
            token => foreign::clause(token),
        };
        let suggestion = match &found.token {
            _ if clause.is_some() => None,
            Token::Word(word) if word.quote_style.is_none() => {
                nearest(&word.value, [expected])
                    .or_else(|| keyword_meant(&found.token))
                    .or_else(|| self.without_by(&found.token))
                    // What was taken for an alias may have been meant as a keyword.
                    .or_else(|| keyword_meant(&self.parser.get_current_token().token))
            }
            _ => None,
        };
        SqlError::Syntax(Refusal {
            position: position_of(&found),
            cause: format!("expected {expected}, found {}", shown(&found.token)),
            suggestion: clause
                .map(str::to_owned)
                .or(suggestion.map(|near| format!("did you mean {near}?"))),
        })
    }

    /// `GROUP x`, `ORDER x`: their `BY` was left out.
    fn without_by(&self, found: &Token) -> Option<String> {
        let is_by = matches!(&self.parser.peek_nth_token_ref(1).token, Token::Word(word) if word.keyword == Keyword::BY);
        match found {
            Token::Word(word) if word.keyword == Keyword::GROUP && !is_by => {
                Some("GROUP BY".into())
            }
            Token::Word(word) if word.keyword == Keyword::ORDER && !is_by => {
                Some("ORDER BY".into())
            }
            _ => None,
        }
    }

    pub(super) fn not_allowed(&self, first: &TokenWithSpan) -> SqlError {
        let suggestion = match (foreign::statement(&first.token), &first.token) {
            (Some(instead), _) => instead.to_owned(),
            (None, Token::Word(word)) => nearest(&word.value, FIRST_WORDS).map_or_else(
                || ALLOWED.to_owned(),
                |near| format!("did you mean {near}?"),
            ),
            _ => ALLOWED.to_owned(),
        };
        SqlError::NotAllowed(Refusal {
            position: position_of(first),
            cause: format!("{} does not begin a statement of this server", first.token),
            suggestion: Some(suggestion),
        })
    }
}

/// What stands between two brackets, as far as it makes a deep tree.
#[derive(Default)]
struct Level {
    /// Words since the last comma, which ends an expression.
    words: usize,
    /// Queries that are put together, which a comma in one of them does not end.
    queries: usize,
}

/// Refuses chains like `1 + 1 + 1 + …`: the parser takes them in a loop, but the tree they become is as deep
/// as they are long, and whatever walks or drops it needs stack for each level.
pub(super) fn check_chains(tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    let mut around: Vec<Level> = Vec::new();
    let mut level = Level::default();
    for token in tokens {
        match &token.token {
            Token::Whitespace(_) => {}
            Token::LParen | Token::LBracket | Token::LBrace => {
                around.push(std::mem::take(&mut level));
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                if let Some(outer) = around.pop() {
                    level = outer;
                }
            }
            Token::Comma | Token::SemiColon => level.words = 0,
            token => {
                level.words += 1;
                let puts_together = SET_OPERATORS.iter().any(|word| is_word(token, word));
                level.queries += usize::from(puts_together);
            }
        }
        if level.words > CHAIN_TOKENS_MAX {
            return Err(SqlError::Limit {
                limit: "CHAIN_TOKENS_MAX",
                value: format!("{CHAIN_TOKENS_MAX} words between two commas"),
                advice: "use IN (…) or VALUES instead of a long chain of operators",
            });
        }
        if level.queries > SET_OPERATIONS_MAX {
            return Err(SqlError::Limit {
                limit: "SET_OPERATIONS_MAX",
                value: format!("{SET_OPERATIONS_MAX} of UNION, EXCEPT and INTERSECT"),
                advice: "use VALUES (…), (…), or put parts of it in parentheses",
            });
        }
    }
    Ok(())
}

/// The clause word that a token misspells; a token that is a keyword already misspells nothing.
pub(super) fn keyword_meant(token: &Token) -> Option<String> {
    match token {
        Token::Word(word) if word.quote_style.is_none() && word.keyword == Keyword::NoKeyword => {
            // A word that is spelt right was not meant otherwise.
            nearest(&word.value, CLAUSE_WORDS).filter(|near| !word.value.eq_ignore_ascii_case(near))
        }
        _ => None,
    }
}

pub(super) fn shown(token: &Token) -> String {
    match token {
        Token::EOF => "the end".to_owned(),
        other => other.to_string(),
    }
}

pub(super) fn position_of(token: &TokenWithSpan) -> Option<Position> {
    let start = token.span.start;
    (start.line > 0).then_some(Position {
        line: start.line,
        column: start.column,
    })
}

pub(super) fn at_token(token: &TokenWithSpan, cause: &str, suggestion: &str) -> SqlError {
    SqlError::Invalid(Refusal {
        position: position_of(token),
        cause: cause.to_owned(),
        suggestion: Some(suggestion.to_owned()),
    })
}

pub(super) fn place(error: SqlError, token: &TokenWithSpan) -> SqlError {
    match error {
        SqlError::Invalid(mut refusal) => {
            refusal.position = refusal.position.or(position_of(token));
            SqlError::Invalid(refusal)
        }
        other => other,
    }
}

/// Takes ` at Line: 1, Column: 2` off the end of the parser's message.
pub(super) fn split_position(text: &str) -> (String, Option<Position>) {
    let Some((cause, place)) = text.rsplit_once(" at Line: ") else {
        return (text.to_owned(), None);
    };
    let position = place.split_once(", Column: ").and_then(|(line, column)| {
        Some(Position {
            line: line.trim().parse().ok()?,
            column: column.trim().parse().ok()?,
        })
    });
    (cause.to_owned(), position)
}
