//! `FROM`: tables, joins and the names behind them, field by field.

use datafusion::sql::sqlparser::ast::{
    Join, JoinConstraint, JoinOperator, Spanned, TableAlias, TableFactor, TableFunctionArgs,
    TableWithJoins,
};

use crate::statement::clause::{Checked, OTHER_DIALECT, at, left, none_of};

pub(super) fn of_joins(table: &TableWithJoins) -> Checked {
    let TableWithJoins { relation: _, joins } = table;
    for join in joins {
        let Join {
            relation,
            global,
            join_operator,
        } = join;
        none_of([(*global, "GLOBAL", OTHER_DIALECT)])?;
        of_join(join_operator, relation)?;
    }
    Ok(())
}

fn of_join(join: &JoinOperator, relation: &TableFactor) -> Checked {
    let instead = |words, instead| Err(left(words, instead));
    let constraint = match join {
        JoinOperator::Join(on)
        | JoinOperator::Inner(on)
        | JoinOperator::Left(on)
        | JoinOperator::LeftOuter(on)
        | JoinOperator::Right(on)
        | JoinOperator::RightOuter(on)
        | JoinOperator::FullOuter(on)
        | JoinOperator::LeftSemi(on)
        | JoinOperator::RightSemi(on)
        | JoinOperator::LeftAnti(on)
        | JoinOperator::RightAnti(on) => on,
        // Whether it may go without a condition is told where its match is written.
        JoinOperator::AsOf {
            match_condition: _,
            constraint: _,
        }
        | JoinOperator::CrossJoin(JoinConstraint::None) => return Ok(()),
        JoinOperator::CrossJoin(_) => {
            return instead(
                "CROSS JOIN",
                "write JOIN … ON …: a cross join has no condition",
            );
        }
        JoinOperator::Semi(_) => return instead("SEMI JOIN", "write LEFT SEMI JOIN"),
        JoinOperator::Anti(_) => return instead("ANTI JOIN", "write LEFT ANTI JOIN"),
        JoinOperator::CrossApply => return instead("CROSS APPLY", "write CROSS JOIN LATERAL"),
        JoinOperator::OuterApply => {
            return instead("OUTER APPLY", "write LEFT JOIN LATERAL … ON true");
        }
        JoinOperator::StraightJoin(_) => return instead("STRAIGHT_JOIN", "write JOIN"),
        JoinOperator::ArrayJoin => return instead("ARRAY JOIN", "write unnest(list) in SELECT"),
        JoinOperator::LeftArrayJoin => {
            return instead("LEFT ARRAY JOIN", "write unnest(list) in SELECT");
        }
        JoinOperator::InnerArrayJoin => {
            return instead("INNER ARRAY JOIN", "write unnest(list) in SELECT");
        }
    };
    match constraint {
        JoinConstraint::On(_) | JoinConstraint::Using(_) | JoinConstraint::Natural => Ok(()),
        // Rows of a list belong to the row that has it, whose condition that is.
        JoinConstraint::None if matches!(relation, TableFactor::UNNEST { .. }) => Ok(()),
        JoinConstraint::None => Err(at(
            relation.span(),
            "a join says which rows belong together, and this one does not".to_owned(),
            "write … ON a.key = b.key, or CROSS JOIN if every row belongs to every other",
        )),
    }
}

pub(super) fn of_factor(factor: &TableFactor) -> Checked {
    let sampled = "a part of the rows that is the same each time: WHERE _offset % 100 = 0";
    match factor {
        TableFactor::Table {
            name: _,
            alias,
            args,
            with_hints,
            // Where it has no meaning it is refused by the planner of as-of joins.
            version: _,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
        } => {
            alias.as_ref().map_or(Ok(()), of_alias)?;
            none_of([
                (!with_hints.is_empty(), "WITH", OTHER_DIALECT),
                (
                    *with_ordinality && args.is_none(),
                    "WITH ORDINALITY",
                    ROW_NUMBER,
                ),
                (
                    !partitions.is_empty(),
                    "PARTITION",
                    "write WHERE _queue = 0 for the messages of one queue",
                ),
                (
                    json_path.is_some(),
                    "FROM",
                    "write json_value(column, path)",
                ),
                (sample.is_some(), "TABLESAMPLE", sampled),
                (!index_hints.is_empty(), "INDEX", OTHER_DIALECT),
            ])?;
            let Some(TableFunctionArgs { args: _, settings }) = args else {
                return Ok(());
            };
            none_of([(settings.is_some(), "SETTINGS", OTHER_DIALECT)])
        }
        TableFactor::Derived {
            lateral: _,
            subquery: _,
            alias,
            sample,
        } => {
            alias.as_ref().map_or(Ok(()), of_alias)?;
            none_of([(sample.is_some(), "TABLESAMPLE", sampled)])
        }
        TableFactor::TableFunction { expr: _, alias } => alias.as_ref().map_or(Ok(()), of_alias),
        TableFactor::Function {
            lateral: _,
            name: _,
            args: _,
            with_ordinality: _,
            alias,
        } => alias.as_ref().map_or(Ok(()), of_alias),
        TableFactor::UNNEST {
            alias,
            array_exprs: _,
            with_offset,
            with_offset_alias: _,
            with_ordinality: _,
        } => {
            none_of([(
                *with_offset,
                "WITH OFFSET",
                "write WITH ORDINALITY, which counts from 1",
            )])?;
            alias.as_ref().map_or(Ok(()), of_alias)
        }
        TableFactor::NestedJoin {
            table_with_joins,
            alias,
        } => {
            of_joins(table_with_joins)?;
            alias.as_ref().map_or(Ok(()), of_alias)
        }
        TableFactor::JsonTable { .. } => Err(left(
            "JSON_TABLE",
            "read values with json_value(text, path), and lists with unnest",
        )),
        TableFactor::OpenJsonTable { .. } => Err(left(
            "OPENJSON",
            "read values with json_value(text, path), and lists with unnest",
        )),
        TableFactor::Pivot { .. } => Err(left(
            "PIVOT",
            "write one aggregate a column: sum(x) FILTER (WHERE kind = 'a') AS a",
        )),
        TableFactor::Unpivot { .. } => Err(left(
            "UNPIVOT",
            "put one SELECT a column together with UNION ALL",
        )),
        TableFactor::MatchRecognize { .. } => Err(left(
            "MATCH_RECOGNIZE",
            "compare a row with those before it by lag(…) OVER (PARTITION BY … ORDER BY time), or join the topic with itself",
        )),
        TableFactor::XmlTable { .. } => Err(left("XMLTABLE", "send bodies as JSON")),
        TableFactor::SemanticView { .. } => Err(left("SEMANTIC_VIEW", OTHER_DIALECT)),
    }
}

const ROW_NUMBER: &str = "number the rows with row_number() OVER (ORDER BY …)";

pub(super) fn of_alias(alias: &TableAlias) -> Checked {
    let TableAlias {
        explicit: _,
        name,
        columns,
        at: place,
    } = alias;
    if let Some(typed) = columns.iter().find(|column| column.data_type.is_some()) {
        return Err(at(
            typed.name.span,
            format!("names of columns behind {name} are without types"),
            "cast the column in SELECT",
        ));
    }
    none_of([(place.is_some(), "AT", ROW_NUMBER)])
}
