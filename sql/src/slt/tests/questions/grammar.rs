//! Questions made by chance, over tables whose columns are known.
//!
//! Everything that is made has one answer: no order decides what is chosen (ranks end in a unique column), and no sum depends on the
//! order of what is added (numbers with a fraction are quarters). Ties, NULLs, empty groups and rows without a partner are what it
//! is for, so values are few.

use millpond_proto::chance::Seeded;

use super::relations::{Column, Relation};

/// The topics that questions are about, and which of their rows stay: all with a time (`a`), all without one (`b`), the last of a
/// key (`c`), the last of a key with a time (`d`), and all with times of which no two are equal (`p`).
pub(super) const TOPICS: [&str; 5] = [
    "CREATE TOPIC a (id BIGINT, k BIGINT, s VARCHAR, x BIGINT, y DOUBLE, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '30 minutes') WITH (queues = 3)",
    "CREATE TOPIC b (id BIGINT, k BIGINT, s VARCHAR, x BIGINT, ok BOOLEAN, day DATE, cost DECIMAL(12, 2)) WITH (queues = 2)",
    "CREATE TOPIC c (id BIGINT, k BIGINT, s VARCHAR, x BIGINT, y DOUBLE, PRIMARY KEY (id)) WITH (queues = 2)",
    "CREATE TOPIC d (id BIGINT, k BIGINT, s VARCHAR, x BIGINT, at TIMESTAMP, PRIMARY KEY (id), WATERMARK FOR at AS at - INTERVAL '30 minutes') WITH (queues = 2)",
    "CREATE TOPIC p (id BIGINT, k BIGINT, s VARCHAR, x BIGINT, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '30 minutes') WITH (queues = 1)",
];

/// How deep relations may be nested in each other.
const DEPTH: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Whole,
    Fraction,
    Text,
    Flag,
    Time,
    Day,
    Decimal,
}

/// When a view must hold what its question answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agrees {
    /// Whenever it has caught up.
    Always,
    /// When the last time is over; until then it holds some of the rows that it will hold then.
    Once,
}

/// A question and what comes of it.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) sql: String,
    pub(super) kinds: Vec<Kind>,
}

/// A statement and how it is kept as a view.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) sql: String,
    /// What a view of it has behind the statement.
    pub(super) emit: &'static str,
    pub(super) agrees: Agrees,
    columns: Vec<Column>,
}

/// Makes questions.
#[derive(Debug)]
pub(super) struct Asker<'a> {
    pub(super) chance: &'a Seeded,
    relations: u32,
    /// Views that there are, and their columns.
    pub(super) views: Vec<(String, Vec<Column>)>,
}

impl<'a> Asker<'a> {
    /// One that follows `chance`.
    #[must_use]
    pub(super) fn new(chance: &'a Seeded) -> Self {
        Self {
            chance,
            relations: 0,
            views: Vec::new(),
        }
    }

    /// One statement.
    pub(super) fn ask(&mut self) -> Asked {
        let (mut emit, mut agrees) = ("", Agrees::Always);
        let question = match self.chance.below(20) {
            0 => {
                agrees = Agrees::Once;
                self.counted()
            }
            1 => {
                agrees = Agrees::Once;
                self.over()
            }
            2 => {
                (emit, agrees) = (" EMIT ON WINDOW CLOSE", Agrees::Once);
                match self.pick(3) {
                    0 => self.near(true),
                    _ => self.windowed(true),
                }
            }
            _ => self.question(DEPTH),
        };
        let columns = question.columns();
        let mut sql = question.sql;
        if agrees == Agrees::Always && self.chance.percent(10) {
            let places: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
            let places = places.join(", ");
            let many = 1 + self.chance.below(6);
            let passed = match self.chance.below(3) {
                0 => format!(" OFFSET {}", self.chance.below(4)),
                _ => String::new(),
            };
            sql =
                format!("SELECT {places} FROM ({sql}) AS l ORDER BY {places} LIMIT {many}{passed}");
        }
        Asked {
            sql,
            emit,
            agrees,
            columns,
        }
    }

    /// Lets questions be about a view of what was asked.
    pub(super) fn know(&mut self, view: &str, asked: &Asked) {
        self.views.push((view.to_owned(), asked.columns.clone()));
    }

    pub(super) fn name(&mut self) -> String {
        self.relations += 1;
        format!("r{}", self.relations)
    }

    pub(super) fn question(&mut self, depth: u32) -> Question {
        match self.chance.below(if depth == DEPTH { 21 } else { 16 }) {
            0..5 => self.plain(depth),
            5..10 => self.grouped(depth),
            10 => self.whole(depth),
            11 => self.distinct(depth),
            12 => self.both(depth),
            13..15 => self.ranked(),
            15 => self.chosen(depth),
            16 => self.sets(depth),
            17 => self.near(false),
            18 => self.sessions(),
            _ => self.windowed(false),
        }
    }

    /// `SELECT … FROM … WHERE …`.
    fn plain(&mut self, depth: u32) -> Question {
        let relation = self.relation(depth);
        let filter = self.filter(&relation, depth);
        self.projected(&relation, &filter)
    }

    pub(super) fn projected(&mut self, relation: &Relation, rest: &str) -> Question {
        let mut kinds = Vec::new();
        let mut items = Vec::new();
        for at in 1..=1 + self.pick(4) {
            let (text, kind) = self.any(&relation.columns, 2);
            items.push(format!("{text} AS c{at}"));
            kinds.push(kind);
        }
        let sql = format!("SELECT {} FROM {}{rest}", items.join(", "), relation.sql);
        Question { sql, kinds }
    }

    fn distinct(&mut self, depth: u32) -> Question {
        let mut question = self.plain(depth);
        question.sql.insert_str("SELECT".len(), " DISTINCT");
        question
    }

    /// Two questions of the same columns, one below the other.
    fn both(&mut self, depth: u32) -> Question {
        let (left, right) = (self.relation(depth), self.relation(depth));
        let kinds = [Kind::Whole, Kind::Text];
        let mut halves = Vec::new();
        for relation in [&left, &right] {
            let filter = self.filter(relation, 0);
            let items: Vec<String> = (1..)
                .zip(kinds)
                .map(|(at, kind)| {
                    format!("{} AS c{at}", self.expression(kind, &relation.columns, 1))
                })
                .collect();
            halves.push(format!(
                "SELECT {} FROM {}{filter}",
                items.join(", "),
                relation.sql
            ));
        }
        let word = self.one_of(&[" UNION ALL ", " UNION ", " INTERSECT ", " EXCEPT "]);
        Question {
            sql: halves.join(&word),
            kinds: kinds.to_vec(),
        }
    }

    fn grouped(&mut self, depth: u32) -> Question {
        let relation = self.relation(depth);
        let filter = self.filter(&relation, 0);
        let keys: Vec<(String, Kind)> = (0..1 + self.pick(2))
            .map(|_| {
                let deep = u32::from(self.chance.percent(25));
                self.any(&relation.columns, deep)
            })
            .collect();
        let having = if self.chance.percent(20) {
            let aggregate = self.aggregate(Kind::Whole, &relation.columns);
            let how = self.one_of(&[" > ", " <= ", " <> "]);
            format!(" HAVING {aggregate}{how}{}", self.literal(Kind::Whole))
        } else {
            String::new()
        };
        let places: Vec<String> = keys.iter().map(|(key, _)| key.clone()).collect();
        self.aggregated(
            &relation,
            keys,
            &format!("{filter} GROUP BY {}{having}", places.join(", ")),
        )
    }

    pub(super) fn aggregated(
        &mut self,
        relation: &Relation,
        keys: Vec<(String, Kind)>,
        rest: &str,
    ) -> Question {
        let (mut items, mut kinds) = (Vec::new(), Vec::new());
        for (key, kind) in keys {
            items.push(key);
            kinds.push(kind);
        }
        for _ in 0..1 + self.pick(3) {
            let kind = [
                Kind::Whole,
                Kind::Whole,
                Kind::Fraction,
                Kind::Text,
                Kind::Decimal,
                Kind::Day,
            ][self.pick(6)];
            let item = self.aggregate(kind, &relation.columns);
            // Two orders in one list are more than bounded questions take.
            if !(item.contains(" ORDER BY ")
                && items.iter().any(|other| other.contains(" ORDER BY ")))
            {
                items.push(item);
                kinds.push(kind);
            }
        }
        let items: Vec<String> = (1..)
            .zip(items)
            .map(|(at, item): (usize, _)| format!("{item} AS c{at}"))
            .collect();
        let sql = format!("SELECT {} FROM {}{rest}", items.join(", "), relation.sql);
        Question { sql, kinds }
    }

    /// Aggregates of all rows.
    fn whole(&mut self, depth: u32) -> Question {
        let relation = self.relation(depth);
        let filter = self.filter(&relation, 0);
        self.aggregated(&relation, Vec::new(), &filter)
    }

    fn sets(&mut self, depth: u32) -> Question {
        let relation = self.relation(depth);
        let keys: Vec<Column> = [
            self.pick(relation.columns.len()),
            self.pick(relation.columns.len()),
        ]
        .iter()
        .map(|at| relation.columns[*at].clone())
        .collect();
        let sets = match self.pick(3) {
            0 => format!("ROLLUP ({}, {})", keys[0].name, keys[1].name),
            1 => format!("CUBE ({}, {})", keys[0].name, keys[1].name),
            _ => format!(
                "GROUPING SETS (({0}, {1}), ({1}), ())",
                keys[0].name, keys[1].name
            ),
        };
        let keys = if keys[0].name == keys[1].name {
            return self.whole(depth);
        } else {
            keys
        };
        let keys = keys.into_iter().map(|key| (key.name, key.kind)).collect();
        self.aggregated(&relation, keys, &format!(" GROUP BY {sets}"))
    }

    /// The first rows of each group by a total order.
    fn ranked(&mut self) -> Question {
        let relation = self.table();
        // Ranks are equal where the order tells no two rows apart, so they need none that does.
        let (numbers, unique) = match self.pick(5) {
            0 => ("rank", String::new()),
            1 => ("dense_rank", String::new()),
            _ => ("row_number", format!(", {}", relation.unique.join(", "))),
        };
        let (part, by) = (
            self.any(&relation.columns, 0).0,
            self.any(&relation.columns, 1).0,
        );
        let way = self.one_of(&["", " DESC", " DESC NULLS LAST", " ASC NULLS FIRST"]);
        let filter = self.filter(&relation, 0);
        let inner = self.name();
        let columns: Vec<String> = (1..)
            .zip(&relation.columns)
            .map(|(at, column): (usize, _)| format!("{} AS n{at}", column.name))
            .collect();
        let sql = format!(
            "(SELECT {}, {numbers}() OVER (PARTITION BY {part} ORDER BY {by}{way}{unique}) AS rn FROM {}{filter}) AS {inner}",
            columns.join(", "),
            relation.sql
        );
        let columns = (1..)
            .zip(&relation.columns)
            .map(|(at, column): (usize, _)| Column {
                name: format!("{inner}.n{at}"),
                kind: column.kind,
            });
        let ranked = Relation {
            columns: columns.collect(),
            sql,
            unique: Vec::new(),
        };
        let many = 1 + self.pick(3);
        let chosen = match self.pick(6) {
            4 => format!(" WHERE {inner}.rn IN (1, {many})"),
            0 => format!(" WHERE {inner}.rn = {many}"),
            1 => format!(" WHERE {inner}.rn BETWEEN 2 AND {}", 1 + many),
            _ => format!(" WHERE {inner}.rn <= {many}"),
        };
        let mut question = self.projected(&ranked, &chosen);
        if self.chance.percent(40) {
            let at = question.kinds.len() + 1;
            question
                .sql
                .insert_str("SELECT ".len(), &format!("{inner}.rn AS c{at}, "));
            question.kinds.push(Kind::Whole);
            // The columns are found by their names, so their order is no matter here.
        }
        question
    }

    /// Rows for which another relation has some, none, or such a value.
    fn chosen(&mut self, depth: u32) -> Question {
        let relation = self.relation(depth.saturating_sub(1));
        let mut choice = self.choice(&relation);
        if self.chance.percent(35) {
            let other = match self.chance.percent(30) {
                true => self.choice(&relation),
                false => self.expression(Kind::Flag, &relation.columns, 1),
            };
            choice = match self.pick(4) {
                0 => format!("NOT ({choice} OR {other})"),
                1 => format!("({choice}) IS NULL OR {other}"),
                2 => format!("NOT ({choice} AND {other})"),
                _ => format!("{other} OR {choice}"),
            };
        }
        self.projected(&relation, &format!(" WHERE {choice}"))
    }

    fn choice(&mut self, relation: &Relation) -> String {
        let other = self.table();
        let kind = [Kind::Whole, Kind::Text][self.pick(2)];
        let (mine, theirs) = (
            self.column(kind, &relation.columns),
            self.column(kind, &other.columns),
        );
        let condition = self.expression(Kind::Flag, &other.columns, 1);
        let not = self.one_of(&["", "NOT "]);
        match self.pick(5) {
            0 | 1 => format!(
                "{not}EXISTS (SELECT 1 FROM {} WHERE {theirs} = {mine} AND {condition})",
                other.sql
            ),
            2 => format!(
                "{mine} {not}IN (SELECT {theirs} FROM {} WHERE {condition})",
                other.sql
            ),
            3 => format!(
                "{mine} {not}IN (SELECT {theirs} FROM {} WHERE {} = {})",
                other.sql,
                self.column(Kind::Whole, &relation.columns),
                self.column(Kind::Whole, &other.columns)
            ),
            _ => {
                let how = self.one_of(&["max", "min", "sum", "count"]);
                let number = self.column(Kind::Whole, &other.columns);
                let mine = self.column(Kind::Whole, &relation.columns);
                format!(
                    "{mine} < (SELECT {how}({number}) FROM {} WHERE {condition})",
                    other.sql
                )
            }
        }
    }

    pub(super) fn filter(&mut self, relation: &Relation, depth: u32) -> String {
        if self.chance.percent(45) {
            let deep = 1 + depth.min(1);
            format!(
                " WHERE {}",
                self.expression(Kind::Flag, &relation.columns, deep)
            )
        } else {
            String::new()
        }
    }
}

impl Question {
    /// What it answers, by the names that its columns have.
    pub(super) fn columns(&self) -> Vec<Column> {
        let named = (1..).zip(&self.kinds).map(|(at, kind): (usize, _)| Column {
            name: format!("c{at}"),
            kind: *kind,
        });
        named.collect()
    }
}
