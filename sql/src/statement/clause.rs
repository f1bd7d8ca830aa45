//! Clauses that the parser takes, field by field: each is carried out, or refused by its name with what to write instead.
//!
//! The parser knows more SQL than the planner, and what the planner does not look at it leaves out without a word: rows of
//! `FOR UPDATE` are not locked, those of `TABLESAMPLE` are all, and an answer that seems right is not.
//!
//! **Invariant.** Every field of a query's syntax tree is named here, without `..`: a field that a new version of the parser
//! brings does not compile until somebody has decided what becomes of it. `_` behind a field says that it is carried out, or
//! changes no answer. What is written otherwise before it is planned is in [`written`].

mod call;
mod from;
mod length;
mod pattern;
mod rows_in;
mod window;
pub(super) mod written;

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Cte, Expr, Fetch, GroupByExpr, LimitClause, LockClause, LockType, OrderBy, OrderByExpr,
    OrderByKind, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, SetOperator,
    SetQuantifier, Spanned, TableFactor, Visit, Visitor, WildcardAdditionalOptions, With,
};
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Tokenizer};

use crate::dialect::{MillpondDialect, is_word};
use crate::error::{Position, Refusal, SqlError};
use crate::statement::clause::call::of_expr;
use crate::statement::clause::from::{of_alias, of_factor, of_joins};
use crate::statement::refusal::position_of;

/// Refuses the first clause in a syntax tree that would be left out; `sql` is the text it was parsed from.
///
/// # Errors
/// [`SqlError::NotAllowed`] with its place, its name and what to write instead.
pub(super) fn check(tree: &impl Visit, sql: &str) -> Result<(), SqlError> {
    match tree.visit(&mut Clauses) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(left) => Err(left.refusal(sql)),
    }
}

/// Refuses hints, which stand in comments: what a text asks for by them would not be done.
///
/// # Errors
/// [`SqlError::NotAllowed`].
pub(super) fn check_hints(tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    use datafusion::sql::sqlparser::tokenizer::Whitespace::MultiLineComment;
    let hint = tokens.iter().find(
        |token| matches!(&token.token, Token::Whitespace(MultiLineComment(text)) if text.starts_with('+')),
    );
    let Some(hint) = hint else { return Ok(()) };
    Err(SqlError::NotAllowed(Refusal {
        position: position_of(hint),
        cause: "hints are not read".to_owned(),
        suggestion: Some(
            "leave /*+ … */ out; what a continuous query keeps is an option, WITH (state_ttl = '1 day'), \
             and where it begins is one of what it reads"
                .to_owned(),
        ),
    }))
}

/// A clause that would be left out.
struct Left {
    /// Its words as they stand in the text, where its place is not known otherwise.
    words: String,
    position: Option<Position>,
    cause: String,
    instead: String,
}

impl Left {
    fn refusal(self, sql: &str) -> SqlError {
        SqlError::NotAllowed(Refusal {
            position: self.position.or_else(|| place_of(&self.words, sql)),
            cause: self.cause,
            suggestion: Some(self.instead),
        })
    }
}

/// Where words stand in a text one behind the other.
fn place_of(words: &str, sql: &str) -> Option<Position> {
    let tokens = Tokenizer::new(&MillpondDialect, sql).tokenize_with_location();
    let mut tokens = tokens.ok()?;
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
    let words: Vec<&str> = words.split(' ').collect();
    let mut places = tokens.windows(words.len());
    let found = places.find(|tokens| {
        let mut pairs = tokens.iter().zip(&words);
        pairs.all(|(token, word)| is_word(&token.token, word))
    })?;
    found.first().and_then(position_of)
}

fn position(span: Span) -> Option<Position> {
    (span.start.line > 0).then_some(Position {
        line: span.start.line,
        column: span.start.column,
    })
}

/// An error of a part that is carried out and can not be as it stands.
fn invalid(span: Span, cause: String, instead: &str) -> SqlError {
    SqlError::Invalid(Refusal {
        position: position(span),
        cause,
        suggestion: Some(instead.to_owned()),
    })
}

type Checked = Result<(), Box<Left>>;

/// Each clause: whether it is there, its words, what to write instead.
fn none_of<const N: usize>(clauses: [(bool, &str, &str); N]) -> Checked {
    let mut clauses = clauses.into_iter();
    match clauses.find(|(is_there, ..)| *is_there) {
        None => Ok(()),
        Some((_, words, instead)) => Err(left(words, instead)),
    }
}

fn left(words: &str, instead: &str) -> Box<Left> {
    Box::new(Left {
        words: words.to_owned(),
        position: None,
        cause: format!("{words} is not done here"),
        instead: instead.to_owned(),
    })
}

const OTHER_DIALECT: &str = "leave it out";

struct Clauses;

impl Visitor for Clauses {
    type Break = Box<Left>;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        flow(of_query(query))
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        flow(of_select(select))
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        flow(of_factor(factor))
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        flow(of_expr(expr))
    }
}

fn flow(checked: Checked) -> ControlFlow<Box<Left>> {
    match checked {
        Ok(()) => ControlFlow::Continue(()),
        Err(left) => ControlFlow::Break(left),
    }
}

fn of_query(query: &Query) -> Checked {
    let Query {
        with,
        body,
        order_by,
        limit_clause,
        fetch,
        locks,
        for_clause,
        settings,
        format_clause,
        pipe_operators,
    } = query;
    with.as_ref().map_or(Ok(()), of_with)?;
    of_set(body)?;
    if let Some(OrderBy { kind, interpolate }) = order_by {
        none_of([
            (
                interpolate.is_some(),
                "INTERPOLATE",
                "join with (SELECT unnest(generate_series(1, 9)) AS n) for rows that are not there",
            ),
            (
                matches!(kind, OrderByKind::All(_)),
                "ORDER BY ALL",
                "name the columns",
            ),
        ])?;
        if let OrderByKind::Expressions(columns) = kind {
            of_order(columns)?;
        }
    }
    if let Some(LimitClause::LimitOffset {
        limit: _,
        offset: _,
        limit_by,
    }) = limit_clause
    {
        none_of([(
            !limit_by.is_empty(),
            "LIMIT",
            "for the first rows of each write QUALIFY row_number() OVER (PARTITION BY … ORDER BY …) <= n",
        )])?;
    }
    if let Some(Fetch {
        with_ties,
        percent,
        quantity: _,
    }) = fetch
    {
        let is_limited = !matches!(
            limit_clause,
            None | Some(LimitClause::LimitOffset { limit: None, .. })
        );
        none_of([
            (
                *with_ties,
                "WITH TIES",
                "write QUALIFY rank() OVER (ORDER BY …) <= n, which keeps rows that are equal to the last one",
            ),
            (
                *percent,
                "PERCENT",
                "write QUALIFY percent_rank() OVER (ORDER BY …) < 0.1 for the first tenth",
            ),
            (is_limited, "FETCH", "write LIMIT or FETCH, not both"),
        ])?;
    }
    for LockClause {
        lock_type,
        of: _,
        nonblock: _,
    } in locks
    {
        let words = match lock_type {
            LockType::Share => "FOR SHARE",
            LockType::Update => "FOR UPDATE",
        };
        none_of([(
            true,
            words,
            "leave it out: rows of a log do not change, and a query reads what was durable when it began",
        )])?;
    }
    none_of([
        (
            for_clause.is_some(),
            "FOR",
            "rows leave as JSON with --format json of the command line, or as the HTTP API answers",
        ),
        (
            settings.is_some(),
            "SETTINGS",
            "options of a continuous query stand in WITH (…)",
        ),
        (
            format_clause.is_some(),
            "FORMAT",
            "how rows are shown is an option of the command line, --format",
        ),
        (!pipe_operators.is_empty(), "|>", "write one SELECT"),
    ])
}

fn of_with(with: &With) -> Checked {
    let With {
        with_token: _,
        recursive,
        cte_tables,
    } = with;
    for cte in cte_tables {
        let Cte {
            alias,
            query,
            from,
            // Whether it is computed once or wherever it is named changes no answer.
            materialized: _,
            closing_paren_token: _,
        } = cte;
        of_alias(alias)?;
        none_of([(from.is_some(), "FROM", OTHER_DIALECT)])?;
        let is_union = matches!(
            query.body.as_ref(),
            SetExpr::SetOperation {
                op: SetOperator::Union,
                ..
            }
        );
        if *recursive && is_union {
            let at_the_end =
                "write it in the query behind WITH RECURSIVE, which reads all of the rows";
            none_of([
                (query.order_by.is_some(), "ORDER BY", at_the_end),
                (query.limit_clause.is_some(), "LIMIT", at_the_end),
                (query.fetch.is_some(), "FETCH", at_the_end),
                (
                    query.with.is_some(),
                    "WITH",
                    "write the inner WITH before the outer one",
                ),
            ])?;
        }
    }
    Ok(())
}

fn of_set(set: &SetExpr) -> Checked {
    match set {
        SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => Ok(()),
        SetExpr::SetOperation {
            left: one,
            right: other,
            op,
            // The planner refuses those that it does not know.
            set_quantifier,
        } => {
            // The engine takes all rows of a kind away for one, and keeps all for one.
            let all = matches!(
                set_quantifier,
                SetQuantifier::All | SetQuantifier::AllByName
            );
            let instead = "leave ALL out, or count on both sides: join (SELECT …, count(*) FROM … GROUP BY …) with the same of the other";
            none_of([
                (all && *op == SetOperator::Except, "EXCEPT ALL", instead),
                (
                    all && *op == SetOperator::Intersect,
                    "INTERSECT ALL",
                    instead,
                ),
            ])?;
            of_set(one).and_then(|()| of_set(other))
        }
        SetExpr::Table(_) => Err(left("TABLE", "write SELECT * FROM the topic")),
        SetExpr::Insert(_) => Err(writing("INSERT")),
        SetExpr::Update(_) => Err(writing("UPDATE")),
        SetExpr::Delete(_) => Err(writing("DELETE")),
        SetExpr::Merge(_) => Err(writing("MERGE")),
    }
}

fn writing(words: &str) -> Box<Left> {
    Box::new(Left {
        cause: "a query may read and not write".to_owned(),
        ..*left(
            words,
            "write INSERT INTO topic SELECT … as a statement of its own",
        )
    })
}

fn of_select(select: &Select) -> Checked {
    let Select {
        select_token: _,
        optimizer_hints: _,
        distinct: _,
        select_modifiers,
        top,
        top_before_distinct: _,
        projection,
        exclude,
        into,
        from,
        lateral_views,
        prewhere,
        selection: _,
        connect_by,
        group_by,
        cluster_by,
        distribute_by,
        sort_by,
        having: _,
        // Written into the calls that name them.
        named_window: _,
        qualify: _,
        window_before_qualify: _,
        value_table_mode,
        flavor: _,
    } = select;
    none_of([
        (select_modifiers.is_some(), "SELECT", OTHER_DIALECT),
        (top.is_some(), "TOP", "write LIMIT n behind the query"),
        (exclude.is_some(), "EXCLUDE", "write * EXCEPT (column, …)"),
        (
            into.is_some(),
            "INTO",
            "write INSERT INTO topic SELECT …, or CREATE MATERIALIZED VIEW name AS SELECT …",
        ),
        (
            !lateral_views.is_empty(),
            "LATERAL VIEW",
            "write unnest(list) in SELECT",
        ),
        (prewhere.is_some(), "PREWHERE", "write WHERE"),
        (!connect_by.is_empty(), "CONNECT BY", "write WITH RECURSIVE"),
        (!cluster_by.is_empty(), "CLUSTER BY", OTHER_DIALECT),
        (!distribute_by.is_empty(), "DISTRIBUTE BY", OTHER_DIALECT),
        (!sort_by.is_empty(), "SORT BY", "write ORDER BY"),
        (value_table_mode.is_some(), "AS", OTHER_DIALECT),
    ])?;
    let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = group_by;
    none_of([(
        !modifiers.is_empty(),
        "WITH",
        "write GROUP BY ROLLUP (…), CUBE (…) or GROUPING SETS (…)",
    )])?;
    projection.iter().try_for_each(of_item)?;
    from.iter().try_for_each(of_joins)
}

fn of_item(item: &SelectItem) -> Checked {
    let options = match item {
        SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { expr: _, alias: _ } => {
            return Ok(());
        }
        SelectItem::ExprWithAliases { expr, aliases: _ } => {
            return Err(at(
                expr.span(),
                format!("{expr} has several names"),
                "give each column one name",
            ));
        }
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::Expr(expr), _) => {
            return Err(at(
                expr.span(),
                format!("{expr}.* is not done here"),
                "name the fields",
            ));
        }
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(_), options)
        | SelectItem::Wildcard(options) => options,
    };
    let WildcardAdditionalOptions {
        wildcard_token: _,
        opt_ilike,
        opt_exclude,
        opt_except: _,
        opt_replace: _,
        opt_rename,
        opt_alias,
    } = options;
    none_of([
        (opt_ilike.is_some(), "ILIKE", "name the columns"),
        (
            opt_exclude.is_some(),
            "EXCLUDE",
            "write * EXCEPT (column, …)",
        ),
        (opt_rename.is_some(), "RENAME", "name the columns: a AS b"),
        (opt_alias.is_some(), "AS", "name the columns: a AS b"),
    ])
}

fn of_order(columns: &[OrderByExpr]) -> Checked {
    for column in columns {
        let OrderByExpr {
            expr: _,
            options: _,
            with_fill,
        } = column;
        none_of([(
            with_fill.is_some(),
            "WITH FILL",
            "join with (SELECT unnest(generate_series(1, 9)) AS n) for rows that are not there",
        )])?;
    }
    Ok(())
}

fn at(span: Span, cause: String, instead: &str) -> Box<Left> {
    Box::new(Left {
        words: String::new(),
        position: position(span),
        cause,
        instead: instead.to_owned(),
    })
}

#[cfg(test)]
mod tests;
