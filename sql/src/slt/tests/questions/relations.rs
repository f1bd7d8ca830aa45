//! What stands behind `FROM`: topics, questions in brackets, joins of all kinds, pieces of texts.

use std::fmt::Write as _;

use super::grammar::{Asker, Kind};

#[derive(Clone, Debug)]
pub(super) struct Column {
    /// As it is written where it is used, with the name of its relation.
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// What may stand behind `FROM`.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    pub(super) sql: String,
    pub(super) columns: Vec<Column>,
    /// The columns that no two rows agree in, if there are such.
    pub(super) unique: Vec<String>,
}

impl Asker<'_> {
    pub(super) fn relation(&mut self, depth: u32) -> Relation {
        if depth == 0 {
            return self.table();
        }
        match self.chance.below(10) {
            0..4 => self.table(),
            4..6 => self.nested(depth),
            6 => self.pieces(depth),
            _ => self.joined(depth),
        }
    }

    pub(super) fn table(&mut self) -> Relation {
        if !self.views.is_empty() && self.chance.percent(20) {
            let (view, columns) = self.views[self.pick(self.views.len())].clone();
            let name = self.name();
            return Relation {
                sql: format!("{view} AS {name}"),
                // Ranks over it need an order that leaves nothing open, which all its columns are.
                unique: within(&name, &columns)
                    .into_iter()
                    .map(|column| column.name)
                    .collect(),
                columns: within(&name, &columns),
            };
        }
        let table = self.one_of(&["a", "a", "b", "c", "c", "d"]);
        self.table_of(&table)
    }

    pub(super) fn table_of(&mut self, table: &str) -> Relation {
        let name = self.name();
        Relation {
            sql: format!("{table} AS {name}"),
            columns: columns_of(table, &name),
            unique: vec![format!("{name}.id")],
        }
    }

    /// A row for each piece of a text.
    fn pieces(&mut self, depth: u32) -> Relation {
        let mut relation = self.relation(depth - 1);
        let (name, text) = (self.name(), self.column(Kind::Text, &relation.columns));
        let sql = &mut relation.sql;
        let _ = write!(
            sql,
            " CROSS JOIN UNNEST(string_to_array({text}, 'q')) AS {name}(piece)"
        );
        relation.columns.push(Column {
            name: format!("{name}.piece"),
            kind: Kind::Text,
        });
        relation.unique.clear();
        relation
    }

    pub(super) fn nested(&mut self, depth: u32) -> Relation {
        let question = self.question(depth - 1);
        let name = self.name();
        Relation {
            columns: within(&name, &question.columns()),
            sql: format!("({}) AS {name}", question.sql),
            unique: Vec::new(),
        }
    }

    fn joined(&mut self, depth: u32) -> Relation {
        let left = self.relation(depth - 1);
        let right = if self.chance.percent(70) {
            self.table()
        } else {
            self.nested(depth)
        };
        let kind = [Kind::Whole, Kind::Whole, Kind::Text][self.pick(3)];
        let keys = (
            self.column(kind, &left.columns),
            self.column(kind, &right.columns),
        );
        let way = self.one_of(&[
            "JOIN",
            "JOIN",
            "LEFT JOIN",
            "LEFT JOIN",
            "RIGHT JOIN",
            "FULL JOIN",
        ]);
        let mut on = format!("{} = {}", keys.0, keys.1);
        let columns: Vec<Column> = left.columns.into_iter().chain(right.columns).collect();
        if self.chance.percent(30) {
            let more = self.expression(Kind::Flag, &columns, 1);
            let _ = write!(on, " AND {more}");
        }
        Relation {
            sql: format!("{} {way} {} ON {on}", left.sql, right.sql),
            columns,
            unique: left.unique.into_iter().chain(right.unique).collect(),
        }
    }
}

impl Relation {
    /// What its columns are called by, if it is one table.
    pub(super) fn name(&self) -> String {
        let first = self.columns.first().map(|column| column.name.as_str());
        let (relation, _) = first
            .unwrap_or_default()
            .split_once('.')
            .unwrap_or_default();
        relation.to_owned()
    }
}

/// These columns as those of a relation of that name.
pub(super) fn within(name: &str, columns: &[Column]) -> Vec<Column> {
    let named = columns.iter().map(|column| Column {
        name: format!("{name}.{}", column.name),
        kind: column.kind,
    });
    named.collect()
}

/// The columns of a topic, as those of a relation of that name; bare without one.
pub(super) fn columns_of(topic: &str, name: &str) -> Vec<Column> {
    let mut columns = vec![
        ("id", Kind::Whole),
        ("k", Kind::Whole),
        ("s", Kind::Text),
        ("x", Kind::Whole),
    ];
    match topic {
        "a" => columns.extend([("y", Kind::Fraction), ("at", Kind::Time)]),
        "b" => columns.extend([
            ("ok", Kind::Flag),
            ("day", Kind::Day),
            ("cost", Kind::Decimal),
        ]),
        "d" | "p" => columns.push(("at", Kind::Time)),
        _ => columns.push(("y", Kind::Fraction)),
    }
    let bare = columns.into_iter().map(|(column, kind)| Column {
        name: column.to_owned(),
        kind,
    });
    let bare: Vec<Column> = bare.collect();
    match name {
        "" => bare,
        name => within(name, &bare),
    }
}
