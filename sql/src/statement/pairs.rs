//! `JSON_OBJECT(KEY 'a' VALUE 1, 'b': 2)`: the standard's pairs, as arguments one behind the other.
//!
//! The parser takes pairs for arguments with names if it is told to, and then reads every argument of every call twice, and those
//! of calls within calls so often that a short text takes for ever. So the words between keys and values become commas before it
//! reads them. `KEY` and `VALUE` are names as well: such a word is one of ours where a key may begin, or has just ended.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Whitespace};

use crate::dialect::is_word;

/// Puts commas between keys and values of `JSON_OBJECT`.
pub(super) fn with_commas(tokens: &mut [TokenWithSpan]) {
    // For each bracket that is open: whether it is that of JSON_OBJECT.
    let mut open: Vec<bool> = Vec::new();
    let mut before = Token::EOF;
    for at in 0..tokens.len() {
        if matches!(tokens[at].token, Token::Whitespace(_)) {
            continue;
        }
        let is_pairs = open.last().copied().unwrap_or(false);
        let begins = matches!(before, Token::LParen | Token::Comma);
        let next = tokens[at + 1..]
            .iter()
            .map(|token| &token.token)
            .find(|token| !matches!(token, Token::Whitespace(_)));
        let names = matches!(
            next,
            Some(Token::Comma | Token::RParen | Token::Period | Token::Colon | Token::LParen)
        );
        let token = &tokens[at].token;
        let written = match token {
            Token::Colon if is_pairs => Token::Comma,
            _ if is_pairs && begins && !names && is_word(token, "KEY") => {
                Token::Whitespace(Whitespace::Space)
            }
            _ if is_pairs && ends(&before) && is_word(token, "VALUE") => Token::Comma,
            _ => {
                match token {
                    Token::LParen => open.push(is_word(&before, "JSON_OBJECT")),
                    Token::LBracket => open.push(false),
                    Token::RParen | Token::RBracket => {
                        open.pop();
                    }
                    _ => {}
                }
                before = token.clone();
                continue;
            }
        };
        tokens[at].token = written;
        if tokens[at].token == Token::Comma {
            before = Token::Comma;
        }
    }
}

/// Whether an expression may end with a token.
fn ends(token: &Token) -> bool {
    matches!(
        token,
        Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::RParen
            | Token::RBracket
    )
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
                "json_object('o' VALUE json_object('a': value), 'n': f(value))",
                "json_object('o', json_object('a', value), 'n', f(value))",
            ),
        ] {
            assert_eq!(written(sql), plain, "{sql}");
        }
    }
}
