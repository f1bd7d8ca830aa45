//! `JSON_OBJECT(KEY 'a' VALUE 1, 'b': 2)`: the standard's pairs, as arguments one behind the other.
//!
//! The parser takes pairs for arguments with names if it is told to, and then reads every argument of every call twice, and those
//! of calls within calls so often that a short text takes for ever. So the words between keys and values become commas before it
//! reads them. `KEY` and `VALUE` are names as well: such a word is one of ours where a key may begin, or has just ended and has no
//! value yet.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Whitespace};

use crate::dialect::is_word;

/// A bracket that is open.
#[derive(Clone, Copy, Default)]
struct Bracket {
    /// Whether it is that of `JSON_OBJECT`.
    has_pairs: bool,
    /// Whether a key stands here or will, and not its value.
    at_key: bool,
}

/// Puts commas between keys and values of `JSON_OBJECT`.
pub(super) fn with_commas(tokens: &mut [TokenWithSpan]) {
    let mut open: Vec<Bracket> = Vec::new();
    let mut before = Token::EOF;
    for at in 0..tokens.len() {
        if matches!(tokens[at].token, Token::Whitespace(_)) {
            continue;
        }
        let within = open.last().copied().unwrap_or_default();
        let is_key = within.has_pairs && within.at_key;
        let begins = matches!(before, Token::LParen | Token::Comma);
        let next = tokens[at + 1..]
            .iter()
            .map(|token| &token.token)
            .find(|token| !matches!(token, Token::Whitespace(_)));
        let token = &tokens[at].token;
        let written = match token {
            Token::Colon if is_key => Token::Comma,
            _ if is_key && begins && is_word(token, "KEY") && next.is_some_and(starts) => {
                Token::Whitespace(Whitespace::Space)
            }
            _ if is_key && ends(&before) && is_word(token, "VALUE") => Token::Comma,
            other => other.clone(),
        };
        match &written {
            Token::LParen => open.push(Bracket {
                has_pairs: is_word(&before, "JSON_OBJECT"),
                at_key: true,
            }),
            Token::LBracket | Token::LBrace => open.push(Bracket::default()),
            Token::RParen | Token::RBracket | Token::RBrace => {
                open.pop();
            }
            Token::Comma => {
                if let Some(within) = open.last_mut() {
                    within.at_key = !within.at_key;
                }
            }
            _ => {}
        }
        if !matches!(written, Token::Whitespace(_)) {
            before = written.clone();
        }
        tokens[at].token = written;
    }
}

/// Words that stand between the parts of an expression, so that it neither begins nor ends with them.
const BETWEEN: [&str; 18] = [
    "AND", "AT", "BETWEEN", "CASE", "COLLATE", "ELSE", "FROM", "ILIKE", "IN", "IS", "LIKE", "NOT",
    "OR", "OVER", "SIMILAR", "THEN", "VALUE", "WHEN",
];

fn stands_between(token: &Token) -> bool {
    BETWEEN.iter().any(|word| is_word(token, word))
}

/// Whether a token behind `KEY` is that of a key, and not of what is done with a column of this name.
fn starts(token: &Token) -> bool {
    match token {
        Token::SingleQuotedString(_) | Token::Number(..) => true,
        Token::Word(_) => is_word(token, "CASE") || !stands_between(token),
        _ => false,
    }
}

/// Whether an expression may end with a token.
fn ends(token: &Token) -> bool {
    match token {
        Token::Word(_) => is_word(token, "VALUE") || !stands_between(token),
        Token::Number(..) | Token::SingleQuotedString(_) | Token::RParen | Token::RBracket => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::statement::parse_expression;

    fn written(sql: &str) -> String {
        parse_expression(sql).map_or_else(|error| error.to_string(), |expr| expr.to_string())
    }

    #[test]
    fn pairs_become_arguments_and_columns_of_such_names_stay() {
        for (sql, plain) in [
            (
                "json_object(KEY 'a' VALUE 1, 'b' VALUE b, c : d[1:2])",
                "json_object('a', 1, 'b', b, c, d[1:2])",
            ),
            (
                "json_object('a' VALUE value, 'b' VALUE t.value + value)",
                "json_object('a', value, 'b', t.value + value)",
            ),
            (
                "json_object(key, value, 'k', t.value)",
                "json_object(key, value, 'k', t.value)",
            ),
            (
                "json_object('n', key + 1, key VALUE 1, key || 'x' : key::TEXT)",
                "json_object('n', key + 1, key, 1, key || 'x', key::TEXT)",
            ),
            (
                "json_object(KEY key VALUE value, 'v', CASE WHEN ok THEN value END, 'w' VALUE NOT value)",
                "json_object(key, value, 'v', CASE WHEN ok THEN value END, 'w', NOT value)",
            ),
            (
                "json_object(CASE WHEN value THEN 'a' ELSE value END VALUE key IS NULL)",
                "json_object(CASE WHEN value THEN 'a' ELSE value END, key IS NULL)",
            ),
            (
                "json_object('o' VALUE json_object('a': value), 'n': f(value))",
                "json_object('o', json_object('a', value), 'n', f(value))",
            ),
        ] {
            assert_eq!(written(sql), plain, "{sql}");
        }
    }
}
