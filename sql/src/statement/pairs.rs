//! `JSON_OBJECT(KEY 'a' VALUE 1, 'b': 2)`: the standard's pairs, as arguments one behind the other.
//!
//! The parser takes pairs for arguments with names if it is told to, and then reads every argument of every call twice, and those
//! of calls within calls so often that a short text takes for ever. So the words between keys and values become commas before it
//! reads them.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Whitespace};

use crate::dialect::is_word;

/// Puts commas between keys and values of `JSON_OBJECT`.
pub(super) fn with_commas(tokens: &mut [TokenWithSpan]) {
    // For each parenthesis that is open: whether it is one of JSON_OBJECT.
    let mut open: Vec<bool> = Vec::new();
    let mut is_behind_name = false;
    // Whether a key is what comes next.
    let mut at_key = false;
    for token in tokens {
        let is_pairs = open.last().copied().unwrap_or(false);
        match &token.token {
            Token::Whitespace(_) => continue,
            Token::LParen => {
                open.push(is_behind_name);
                at_key = is_behind_name;
            }
            Token::RParen => {
                open.pop();
                at_key = false;
            }
            Token::Comma => at_key = is_pairs,
            word if is_pairs && at_key && is_word(word, "KEY") => {
                token.token = Token::Whitespace(Whitespace::Space);
                at_key = false;
            }
            Token::Colon if is_pairs => token.token = Token::Comma,
            word if is_pairs && !at_key && is_word(word, "VALUE") => token.token = Token::Comma,
            _ => at_key = false,
        }
        is_behind_name = is_word(&token.token, "JSON_OBJECT");
    }
}
