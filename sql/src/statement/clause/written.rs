//! Clauses that are written otherwise before they are planned, because the planner has no place for them.
//!
//! - `FETCH FIRST n ROWS ONLY` is `LIMIT n`.
//! - `WINDOW w AS (…)` is written out in every call that names it, in `SELECT`, `QUALIFY` and `ORDER BY`.
//! - `CAST(x AS VARCHAR(n))` keeps the first `n` characters; types that have several names get the planner's.
//! - `x SIMILAR TO 'pattern'` is the regular expression that the pattern stands for, of the whole text; `ESCAPE` of `LIKE` is
//!   a backslash.
//! - `TABLE t` is `SELECT * FROM t`, and `FROM t AS x (a, b)` names the columns of that.
//! - `n * INTERVAL '1 hour'` and `INTERVAL '1 02:30' DAY TO MINUTE` are intervals with their units, see [`super::length`].
//! - `TUMBLE(DATA => TABLE t, TIMECOL => …, SIZE => …)` has its arguments by position.
//! - `json_value(x, path RETURNING INT)` is cast; what is none is NULL.
//! - `x = ANY (SELECT …)` is `IN`, `x <> ALL (SELECT …)` is `NOT IN`; `(a, b) IN (…)` is a comparison of rows, see [`super::rows_in`].
//! - `~x` is `-1 # x`; `U&'…'` and `N'…'` are texts like others.
//!
//! **Invariant.** What is written could have stood in the statement. Stored texts keep what their author wrote.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, CharacterLength, DataType, ExactNumberInfo, Expr, Fetch, Function,
    FunctionArg, FunctionArgumentClause, FunctionArguments, GroupByExpr, LimitClause, ObjectName,
    OrderByKind, Query, Select, SelectFlavor, SelectItem, SetExpr, TableFactor, TableWithJoins,
    TimezoneInfo, UnaryOperator, Value, ValueWithSpan, VisitMut, VisitorMut,
    WildcardAdditionalOptions,
};

use crate::error::SqlError;
use crate::statement::clause::length::{in_units, times};
use crate::statement::clause::pattern::{escaped, similar};
use crate::statement::clause::rows_in;
use crate::statement::clause::window::{Calls, windows_of};

/// Writes every such clause of a syntax tree.
///
/// # Errors
/// [`SqlError::Invalid`] for a length or a pattern that means nothing.
pub(in crate::statement) fn write(tree: &mut impl VisitMut) -> Result<(), SqlError> {
    match tree.visit(&mut Written) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Written;

impl VisitorMut for Written {
    type Break = Box<SqlError>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        fetched(query);
        // `ORDER BY` is none of the SELECT's own parts, but it knows the windows of it.
        if let SetExpr::Select(select) = query.body.as_ref()
            && !select.named_window.is_empty()
            && let Some(order) = &mut query.order_by
            && let OrderByKind::Expressions(columns) = &mut order.kind
        {
            let windows = match windows_of(select) {
                Ok(windows) => windows,
                Err(error) => return ControlFlow::Break(Box::new(error)),
            };
            return columns.visit(&mut Calls::of(&windows));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        for condition in [&mut select.selection, &mut select.having] {
            if let Some(Err(error)) = condition.as_mut().map(rows_in::in_condition) {
                return ControlFlow::Break(Box::new(error));
            }
        }
        if select.named_window.is_empty() {
            return ControlFlow::Continue(());
        }
        let windows = match windows_of(select) {
            Ok(windows) => windows,
            Err(error) => return ControlFlow::Break(Box::new(error)),
        };
        let calls = &mut Calls::of(&windows);
        select.projection.visit(calls)?;
        select.qualify.visit(calls)
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        match factor {
            TableFactor::Table {
                name,
                args: Some(args),
                ..
            } => by_position(&name.to_string(), &mut args.args),
            TableFactor::TableFunction {
                expr: Expr::Function(function),
                ..
            } => {
                if let FunctionArguments::List(list) = &mut function.args {
                    by_position(&function.name.to_string(), &mut list.args);
                }
            }
            _ => {}
        }
        if let TableFactor::Table {
            name,
            alias: alias @ Some(_),
            args: None,
            version: None,
            ..
        } = factor
            && alias
                .as_ref()
                .is_some_and(|alias| !alias.columns.is_empty())
        {
            *factor = TableFactor::Derived {
                lateral: false,
                subquery: Box::new(all_of(name)),
                alias: alias.take(),
                sample: None,
            };
        }
        ControlFlow::Continue(())
    }

    fn post_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<Self::Break> {
        if let Value::UnicodeStringLiteral(text) | Value::NationalStringLiteral(text) =
            &mut value.value
        {
            value.value = Value::SingleQuotedString(std::mem::take(text));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        let written = match expr {
            Expr::Function(function) => match returning(function) {
                Some(data_type) => Ok(Some(Expr::Cast {
                    kind: CastKind::TryCast,
                    expr: Box::new(expr.clone()),
                    data_type,
                    array: false,
                    format: None,
                })),
                None => return ControlFlow::Continue(()),
            },
            Expr::Interval(interval) => in_units(interval).map(|()| None),
            Expr::BinaryOp { left, op, right } => times(left, op, right),
            Expr::Cast { data_type, .. } => match plain_type(data_type) {
                Ok(length) => Ok(length.map(|length| first_characters(expr.clone(), length))),
                Err(error) => Err(error),
            },
            Expr::SimilarTo {
                negated,
                expr,
                pattern,
                escape_char,
            } => similar(*negated, expr, pattern, escape_char.as_ref()).map(Some),
            Expr::Like {
                pattern,
                escape_char,
                ..
            }
            | Expr::ILike {
                pattern,
                escape_char,
                ..
            } => match escape_char.take() {
                Some(escape) => escaped(pattern, &escape).map(|()| None),
                None => return ControlFlow::Continue(()),
            },
            Expr::AnyOp {
                left,
                compare_op: BinaryOperator::Eq,
                right,
                ..
            } => among(left, right, false),
            Expr::AllOp {
                left,
                compare_op: BinaryOperator::NotEq,
                right,
            } => among(left, right, true),
            Expr::InSubquery { .. } | Expr::InList { .. } => rows_in::as_value(expr),
            Expr::UnaryOp {
                op: UnaryOperator::BitwiseNot,
                expr,
            } => {
                let ones = Expr::value(Value::Number("-1".to_owned(), false));
                Ok(Some(Expr::Nested(Box::new(Expr::BinaryOp {
                    left: Box::new(ones),
                    op: BinaryOperator::PGBitwiseXor,
                    right: Box::new(Expr::Nested(expr.clone())),
                }))))
            }
            _ => return ControlFlow::Continue(()),
        };
        match written {
            Ok(None) => {}
            Ok(Some(other)) => *expr = other,
            Err(error) => return ControlFlow::Break(Box::new(error)),
        }
        ControlFlow::Continue(())
    }
}

/// `SELECT * FROM name`.
fn all_of(name: &ObjectName) -> Query {
    let star = SelectItem::Wildcard(WildcardAdditionalOptions::default());
    let from = TableFactor::Table {
        name: name.clone(),
        alias: None,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    };
    let select = Select {
        select_token: AttachedToken::empty(),
        optimizer_hints: Vec::new(),
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: false,
        projection: vec![star],
        exclude: None,
        into: None,
        from: vec![TableWithJoins {
            relation: from,
            joins: Vec::new(),
        }],
        lateral_views: Vec::new(),
        prewhere: None,
        selection: None,
        connect_by: Vec::new(),
        group_by: GroupByExpr::Expressions(Vec::new(), Vec::new()),
        cluster_by: Vec::new(),
        distribute_by: Vec::new(),
        sort_by: Vec::new(),
        having: None,
        named_window: Vec::new(),
        qualify: None,
        window_before_qualify: false,
        value_table_mode: None,
        flavor: SelectFlavor::Standard,
    };
    Query {
        with: None,
        body: Box::new(SetExpr::Select(Box::new(select))),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: Vec::new(),
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: Vec::new(),
    }
}

/// `FETCH FIRST n ROWS ONLY` as `LIMIT n`; others are refused where clauses are checked.
fn fetched(query: &mut Query) {
    let Some(Fetch {
        with_ties: false,
        percent: false,
        quantity,
    }) = &query.fetch
    else {
        return;
    };
    // Without a number it is one row.
    let one = || Expr::value(Value::Number("1".to_owned(), false));
    let rows = quantity.clone().unwrap_or_else(one);
    match &mut query.limit_clause {
        None => {
            query.limit_clause = Some(LimitClause::LimitOffset {
                limit: Some(rows),
                offset: None,
                limit_by: Vec::new(),
            });
        }
        Some(LimitClause::LimitOffset {
            limit: limit @ None,
            ..
        }) => *limit = Some(rows),
        Some(_) => return,
    }
    query.fetch = None;
}

/// Gives a type the name that the planner knows it by; answers how many characters it keeps, if it says.
fn plain_type(kind: &mut DataType) -> Result<Option<u64>, SqlError> {
    let (plain, length) = match kind {
        DataType::Varchar(length)
        | DataType::CharacterVarying(length)
        | DataType::CharVarying(length)
        | DataType::Nvarchar(length) => match length {
            Some(CharacterLength::IntegerLength { length, .. }) => {
                (DataType::Varchar(None), Some(*length))
            }
            None | Some(CharacterLength::Max) => (DataType::Varchar(None), None),
        },
        DataType::String(length) => (DataType::String(None), *length),
        DataType::Char(_) | DataType::Character(_) => {
            return Err(SqlError::invalid(
                format!("{kind} fills texts up with blanks, which is not done here"),
                "write VARCHAR, or VARCHAR(n) for the first n characters",
            ));
        }
        DataType::Float(ExactNumberInfo::Precision(25..)) => (DataType::DoublePrecision, None),
        DataType::Float64 => (DataType::DoublePrecision, None),
        DataType::Float32 => (DataType::Real, None),
        DataType::Int64 => (DataType::BigInt(None), None),
        DataType::Int32 => (DataType::Integer(None), None),
        DataType::Int16 => (DataType::SmallInt(None), None),
        DataType::Bytes(None)
        | DataType::Binary(None)
        | DataType::Varbinary(None)
        | DataType::Blob(None) => (DataType::Bytea, None),
        DataType::Dec(info) => (DataType::Decimal(*info), None),
        DataType::Datetime(digits) => (DataType::Timestamp(*digits, TimezoneInfo::None), None),
        DataType::Timestamp(Some(digits), _) if ![0, 3, 6, 9].contains(digits) => {
            return Err(SqlError::invalid(
                format!("{kind} counts in no unit of time"),
                "write TIMESTAMP(0) for seconds, TIMESTAMP(3) for milliseconds, TIMESTAMP(6) or TIMESTAMP(9)",
            ));
        }
        DataType::Custom(name, digits)
            if name.to_string().eq_ignore_ascii_case("timestamp_ltz") =>
        {
            let digits = digits.first().and_then(|digits| digits.parse().ok());
            (DataType::Timestamp(digits, TimezoneInfo::None), None)
        }
        _ => return Ok(None),
    };
    *kind = plain;
    match length {
        Some(0) => Err(SqlError::invalid(
            "VARCHAR(0) holds no text but the empty one",
            "write VARCHAR(n) with the most characters that it may have",
        )),
        length => Ok(length),
    }
}

fn first_characters(cast: Expr, length: u64) -> Expr {
    let number = |number: u64| Expr::value(Value::Number(number.to_string(), false));
    Expr::Substring {
        expr: Box::new(cast),
        substring_from: Some(Box::new(number(1))),
        substring_for: Some(Box::new(number(length))),
        special: true,
        shorthand: false,
    }
}

/// `x = ANY (SELECT …)` as `x IN (SELECT …)`, and `x <> ALL (SELECT …)` as `x NOT IN (SELECT …)`; a list stays as it is.
fn among(value: &Expr, of: &Expr, negated: bool) -> Result<Option<Expr>, SqlError> {
    let Expr::Subquery(subquery) = of else {
        return Ok(None);
    };
    let among = Expr::InSubquery {
        expr: Box::new(value.clone()),
        subquery: subquery.clone(),
        negated,
    };
    let rows = rows_in::as_value(&among)?;
    Ok(Some(rows.unwrap_or(among)))
}

/// The window functions, and the names of their arguments in order.
const ARGUMENTS: [(&str, &[&str]); 4] = [
    ("tumble", &["data", "timecol", "size"]),
    ("hop", &["data", "timecol", "slide", "size"]),
    ("cumulate", &["data", "timecol", "step", "size"]),
    ("session", &["data", "timecol", "gap"]),
];

/// Takes the names off arguments that all have one, and brings them into order; others are told of where they are read.
fn by_position(function: &str, arguments: &mut [FunctionArg]) {
    let mut known = ARGUMENTS.iter();
    let Some((_, names)) = known.find(|(name, _)| function.eq_ignore_ascii_case(name)) else {
        return;
    };
    let place = |argument: &FunctionArg| match argument {
        FunctionArg::Named { name, .. } => names
            .iter()
            .position(|known| name.value.eq_ignore_ascii_case(known)),
        _ => None,
    };
    if arguments.iter().any(|argument| place(argument).is_none()) {
        return;
    }
    arguments.sort_by_key(|argument| place(argument));
    for argument in arguments {
        if let FunctionArg::Named { arg, .. } = argument {
            *argument = FunctionArg::Unnamed(arg.clone());
        }
    }
}

/// The type that `json_value(… RETURNING type)` asks for, which is taken off the call.
fn returning(function: &mut Function) -> Option<DataType> {
    if !function.name.to_string().eq_ignore_ascii_case("json_value") {
        return None;
    }
    let FunctionArguments::List(list) = &mut function.args else {
        return None;
    };
    match list.clauses.as_slice() {
        [FunctionArgumentClause::JsonReturningClause(clause)] => {
            let data_type = clause.data_type.clone();
            list.clauses.clear();
            Some(data_type)
        }
        _ => None,
    }
}
