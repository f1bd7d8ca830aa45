//! The words of our SQL below the statement level: PostgreSQL's, plus `TABLE t` as an argument of a
//! window function, `EMIT` as a word that is never an alias, and `IS DISTINCT FROM` and signs bound as in PostgreSQL.
//!
//! Whole statements are parsed in [`crate::statement`]; this file only answers the parser's questions.

use std::any::TypeId;

use datafusion::sql::sqlparser::ast::{Expr, UnaryOperator};
use datafusion::sql::sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use datafusion::sql::sqlparser::keywords::{
    Keyword, RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_TABLE_ALIAS,
};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

/// Our dialect.
#[derive(Clone, Copy, Debug, Default)]
pub struct MillpondDialect;

const POSTGRES: PostgreSqlDialect = PostgreSqlDialect {};

impl Dialect for MillpondDialect {
    fn dialect(&self) -> TypeId {
        // The parser asks for the type of a dialect in places that no method covers.
        POSTGRES.dialect()
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        POSTGRES.identifier_quote_style(identifier)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        POSTGRES.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        POSTGRES.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        POSTGRES.is_identifier_part(ch)
    }

    fn is_reserved_for_identifier(&self, keyword: Keyword) -> bool {
        POSTGRES.is_reserved_for_identifier(keyword)
    }

    fn is_custom_operator_part(&self, ch: char) -> bool {
        POSTGRES.is_custom_operator_part(ch)
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        POSTGRES.get_next_precedence(parser)
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        POSTGRES.prec_value(precedence)
    }

    fn supports_unicode_string_literal(&self) -> bool {
        true
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_group_by_expr(&self) -> bool {
        true
    }

    fn supports_window_clause_named_window_reference(&self) -> bool {
        true
    }

    fn allow_extract_custom(&self) -> bool {
        true
    }

    fn allow_extract_single_quotes(&self) -> bool {
        true
    }

    fn supports_nested_comments(&self) -> bool {
        true
    }

    fn supports_string_escape_constant(&self) -> bool {
        true
    }

    fn supports_numeric_literal_underscores(&self) -> bool {
        true
    }

    fn supports_array_typedef_with_brackets(&self) -> bool {
        true
    }

    fn supports_bitwise_shift_operators(&self) -> bool {
        true
    }

    fn support_map_literal_syntax(&self) -> bool {
        true
    }

    fn supports_table_versioning(&self) -> bool {
        true
    }

    fn supports_notnull_operator(&self) -> bool {
        true
    }

    fn supports_interval_options(&self) -> bool {
        true
    }

    fn supports_comma_separated_trim(&self) -> bool {
        true
    }

    fn supports_select_wildcard_except(&self) -> bool {
        true
    }

    fn is_column_alias(&self, keyword: &Keyword, parser: &mut Parser) -> bool {
        !RESERVED_FOR_COLUMN_ALIAS.contains(keyword) && !at_emit(parser)
    }

    fn is_table_factor_alias(
        &self,
        explicit: bool,
        keyword: &Keyword,
        parser: &mut Parser,
    ) -> bool {
        explicit || (!RESERVED_FOR_TABLE_ALIAS.contains(keyword) && !at_emit(parser))
    }

    /// `TABLE t` or `TABLE (SELECT …)` where a value may stand: the argument of a window function. It reads as the bare name or
    /// the subquery, and with `PARTITION BY k` or `PARTITION BY (k, l)` as the tuple of it and all names.
    ///
    /// A sign binds more tightly than `^`: `-2 ^ 2` is 4. The parser takes `2 ^ 2` for what it is the sign of.
    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        let sign = match &parser.peek_token_ref().token {
            Token::Minus => Some(UnaryOperator::Minus),
            Token::Plus => Some(UnaryOperator::Plus),
            _ => None,
        };
        if let Some(op) = sign {
            parser.advance_token();
            let expr = parser.parse_subexpr(self.prec_value(Precedence::Caret));
            return Some(expr.map(|expr| Expr::UnaryOp {
                op,
                expr: Box::new(expr),
            }));
        }
        let is_table = matches!(
            &parser.peek_token_ref().token,
            Token::Word(word) if word.keyword == Keyword::TABLE && word.quote_style.is_none()
        ) && matches!(
            &parser.peek_nth_token_ref(1).token,
            Token::Word(_) | Token::LParen
        );
        if !is_table {
            return None;
        }
        parser.advance_token();
        Some(table_argument(parser))
    }

    /// `a IS [NOT] DISTINCT FROM b AND c`: the parser takes `b AND c` for what `a` is compared with. It binds as tightly as the other tests with `IS`.
    fn parse_infix(
        &self,
        parser: &mut Parser,
        expr: &Expr,
        _precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        let is_equal = if parser.parse_keywords(&[Keyword::IS, Keyword::DISTINCT, Keyword::FROM]) {
            false
        } else if parser.parse_keywords(&[
            Keyword::IS,
            Keyword::NOT,
            Keyword::DISTINCT,
            Keyword::FROM,
        ]) {
            true
        } else {
            return None;
        };
        let left = Box::new(expr.clone());
        let right = parser.parse_subexpr(self.prec_value(Precedence::Is));
        Some(right.map(|right| match is_equal {
            true => Expr::IsNotDistinctFrom(left, Box::new(right)),
            false => Expr::IsDistinctFrom(left, Box::new(right)),
        }))
    }
}

fn table_argument(parser: &mut Parser) -> Result<Expr, ParserError> {
    let table = if parser.consume_token(&Token::LParen) {
        let query = parser.parse_query()?;
        parser.expect_token(&Token::RParen)?;
        Expr::Subquery(query)
    } else {
        Expr::Identifier(parser.parse_identifier()?)
    };
    if !parser.parse_keywords(&[Keyword::PARTITION, Keyword::BY]) {
        return Ok(table);
    }
    let keys = if parser.consume_token(&Token::LParen) {
        let keys = parser.parse_comma_separated(Parser::parse_identifier)?;
        parser.expect_token(&Token::RParen)?;
        keys
    } else {
        vec![parser.parse_identifier()?]
    };
    let keys = keys.into_iter().map(Expr::Identifier);
    Ok(Expr::Tuple(std::iter::once(table).chain(keys).collect()))
}

/// Whether the word just read is `EMIT` and begins our clause rather than naming something.
fn at_emit(parser: &Parser) -> bool {
    is_word(&parser.get_current_token().token, "EMIT")
        && ["CHANGES", "EVERY", "ON"]
            .iter()
            .any(|word| is_word(&parser.peek_token_ref().token, word))
}

/// Whether a token is this word, unquoted and in any case.
pub(crate) fn is_word(token: &Token, expected: &str) -> bool {
    matches!(token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(expected))
}
