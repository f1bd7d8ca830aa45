//! The relations of a `FROM`, what is known of their columns, and the columns that `USING` makes one.
//!
//! A column of `USING` is that of the side whose rows all stay, and of a `FULL JOIN` whichever of the two is there, as in SQL at large.
//! The engine takes the first relation's in any case; so where that is another one a join by further tables is written with `ON`.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArguments, Ident, JoinConstraint, JoinOperator, ObjectName, Query, SelectItem,
    SetExpr, TableAlias, TableFactor, TableWithJoins,
};

use crate::batch::view::view;
use crate::catalog;
use crate::error::SqlError;
use crate::plan::scopes::Scopes;
use crate::plan::star::first_name;
use crate::runtime::TOPICS_SCHEMA;
use crate::statement::{name_of, parse_expression};
use crate::topic::Topics;

/// What names mean at a place of the syntax tree.
pub(super) struct Names<'a> {
    pub(super) topics: &'a dyn Topics,
    /// Names that `WITH` gives to queries.
    pub(super) scopes: Scopes,
    /// The columns of these.
    parts: BTreeMap<String, Columns>,
    /// How many relations were given a name.
    named: usize,
}

/// Names of columns; `None` if they are not known.
type Columns = Option<Vec<String>>;

/// One relation in `FROM`.
pub(super) struct Relation {
    /// What its columns are qualified with.
    pub(super) name: ObjectName,
    /// Whether it has system columns beside declared ones.
    pub(super) hides: bool,
    columns: Columns,
    /// Those that `USING` made one with another relation's.
    pub(super) merged: Vec<Ident>,
}

/// A column of `USING`.
pub(super) struct Shared {
    pub(super) name: Ident,
    /// The columns of which the first that is not NULL is its value.
    columns: Vec<String>,
    /// Whether its bare name is that for the engine, too.
    pub(super) is_first: bool,
}

/// Relations that are joined with each other.
#[derive(Default)]
pub(super) struct Joined {
    pub(super) relations: Vec<Relation>,
    pub(super) shared: Vec<Shared>,
}

impl Relation {
    /// Whether it has a column; `None` if that is not known.
    pub(super) fn has(&self, column: &Ident) -> Option<bool> {
        let columns = self.columns.as_ref()?;
        Some(columns.contains(&name_of(column)))
    }
}

impl Shared {
    /// Its value.
    pub(super) fn value(&self) -> Result<Expr, SqlError> {
        match self.columns.as_slice() {
            [one] => parse_expression(one),
            several => parse_expression(&format!("coalesce({})", several.join(", "))),
        }
    }

    pub(super) fn is_called(&self, name: &Ident) -> bool {
        name_of(&self.name) == name_of(name)
    }
}

impl Joined {
    /// Takes a column out that is to be made one with another; `None` if no relation has it.
    fn take(&mut self, column: &Ident) -> Option<Shared> {
        if let Some(at) = self.shared.iter().position(|known| known.is_called(column)) {
            return Some(self.shared.remove(at));
        }
        let by = |wanted: Option<bool>| move |of: &Relation| of.has(column) == wanted;
        let known = self.relations.iter().position(by(Some(true)));
        let at = known.or_else(|| self.relations.iter().position(by(None)))?;
        let relation = &mut self.relations[at];
        relation.merged.push(column.clone());
        Some(Shared {
            name: column.clone(),
            columns: vec![format!("{}.{column}", relation.name)],
            is_first: true,
        })
    }
}

impl<'a> Names<'a> {
    pub(super) fn of(topics: &'a dyn Topics) -> Self {
        Self {
            topics,
            scopes: Scopes::default(),
            parts: BTreeMap::new(),
            named: 0,
        }
    }

    /// The walk enters a query.
    pub(super) fn enter(&mut self, query: &Query) {
        for part in query.with.iter().flat_map(|with| &with.cte_tables) {
            let columns = called(&part.alias).or_else(|| columns_of(&part.query));
            self.parts.insert(name_of(&part.alias.name), columns);
        }
        self.scopes.enter(query);
    }

    /// The relations of an entry of `FROM`; those without a name get one, so that their columns can be told from others.
    pub(super) fn joined(&mut self, from: &mut TableWithJoins) -> Result<Joined, SqlError> {
        let mut left = self.of_factor(&mut from.relation)?;
        for join in &mut from.joins {
            let mut right = self.of_factor(&mut join.relation)?;
            let stays = Stays::of(&join.join_operator);
            if let Some(constraint) = constraint_mut(&mut join.join_operator) {
                make_one(&mut left, &mut right, stays, constraint)?;
            }
            if stays != Stays::LeftAlone {
                left.relations.append(&mut right.relations);
                left.shared.append(&mut right.shared);
            }
        }
        Ok(left)
    }

    fn of_factor(&mut self, factor: &mut TableFactor) -> Result<Joined, SqlError> {
        let (name, topic, columns, alias) = match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                ..
            } => {
                let topic = topic_of(name);
                let columns = topic
                    .as_ref()
                    .and_then(|topic| self.columns_of_table(topic));
                (Some(name.clone()), topic, columns, alias)
            }
            TableFactor::Table {
                alias,
                args: Some(args),
                ..
            } => {
                let topic = args.args.first().and_then(first_name);
                (topic.clone().map(one_part), topic, None, alias)
            }
            TableFactor::TableFunction { expr, alias } => {
                let topic = match expr {
                    Expr::Function(function) => match &function.args {
                        FunctionArguments::List(list) => list.args.first().and_then(first_name),
                        _ => None,
                    },
                    _ => None,
                };
                (topic.clone().map(one_part), topic, None, alias)
            }
            TableFactor::Derived {
                subquery, alias, ..
            } => (None, None, columns_of(subquery), alias),
            TableFactor::UNNEST { alias, .. } | TableFactor::Function { alias, .. } => {
                (None, None, None, alias)
            }
            TableFactor::NestedJoin {
                table_with_joins,
                alias: None,
            } => return self.joined(table_with_joins),
            TableFactor::NestedJoin {
                table_with_joins,
                alias: Some(alias),
            } => {
                let within = self.joined(table_with_joins)?.relations;
                let whole = Relation {
                    name: one_part(alias.name.clone()),
                    hides: within.iter().any(|relation| relation.hides),
                    columns: called(alias),
                    merged: Vec::new(),
                };
                return Ok(Joined {
                    relations: vec![whole],
                    shared: Vec::new(),
                });
            }
            other => {
                return Err(SqlError::invalid(
                    format!("* does not tell the columns of {other}"),
                    "name the columns",
                ));
            }
        };
        let columns = alias.as_ref().and_then(called).or(columns);
        let name = match (alias.as_ref(), name) {
            (Some(alias), _) => one_part(alias.name.clone()),
            (None, Some(name)) => name,
            (None, None) => {
                self.named += 1;
                let name = Ident::new(format!("__from_{}", self.named));
                *alias = Some(TableAlias {
                    explicit: true,
                    name: name.clone(),
                    columns: Vec::new(),
                    at: None,
                });
                one_part(name)
            }
        };
        Ok(Joined {
            relations: vec![Relation {
                name,
                hides: self.hides(topic.as_ref()),
                columns,
                merged: Vec::new(),
            }],
            shared: Vec::new(),
        })
    }

    fn columns_of_table(&self, name: &Ident) -> Columns {
        let name = name_of(name);
        if self.scopes.holds(&name) {
            return self.parts.get(&name).cloned().flatten();
        }
        match self.topics.topic(&name) {
            Some(topic) => {
                let declared = topic.columns.into_iter().map(|column| column.name);
                let system = catalog::system_columns().iter();
                Some(
                    declared
                        .chain(system.map(|field| field.name().clone()))
                        .collect(),
                )
            }
            None => columns_of(&view(self.topics, &name)?.query),
        }
    }

    fn hides(&self, topic: Option<&Ident>) -> bool {
        let Some(name) = topic.map(name_of).filter(|name| !self.scopes.holds(name)) else {
            return false;
        };
        let topic = self.topics.topic(&name);
        topic.is_some_and(|topic| !topic.columns.is_empty())
    }
}

/// The names that an alias gives to columns.
fn called(alias: &TableAlias) -> Columns {
    let names = alias.columns.iter().map(|column| name_of(&column.name));
    (!alias.columns.is_empty()).then(|| names.collect())
}

/// The columns that a query answers, if it names them.
fn columns_of(query: &Query) -> Columns {
    let mut body = query.body.as_ref();
    let select = loop {
        match body {
            SetExpr::Query(query) => return columns_of(query),
            // The names of a union are those of its first query.
            SetExpr::SetOperation { left, .. } => body = left,
            SetExpr::Select(select) => break select,
            _ => return None,
        }
    };
    let mut names = Vec::new();
    for item in &select.projection {
        match item {
            SelectItem::ExprWithAlias { alias, .. } => names.push(name_of(alias)),
            SelectItem::UnnamedExpr(Expr::Identifier(column)) => names.push(name_of(column)),
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => {
                names.extend(parts.last().map(name_of));
            }
            // Nobody writes the name that it gets.
            SelectItem::UnnamedExpr(_) => {}
            _ => return None,
        }
    }
    Some(names)
}

fn one_part(name: Ident) -> ObjectName {
    ObjectName::from(vec![name])
}

/// Which rows of a join stay whatever they meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stays {
    Left,
    Right,
    Both,
    /// Those of the left, and the right has no columns in what is answered.
    LeftAlone,
}

impl Stays {
    fn of(join: &JoinOperator) -> Self {
        match join {
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) => Self::Right,
            JoinOperator::FullOuter(_) => Self::Both,
            JoinOperator::Semi(_)
            | JoinOperator::LeftSemi(_)
            | JoinOperator::Anti(_)
            | JoinOperator::LeftAnti(_) => Self::LeftAlone,
            _ => Self::Left,
        }
    }
}

/// Makes the columns of `USING` one.
fn make_one(
    left: &mut Joined,
    right: &mut Joined,
    stays: Stays,
    constraint: &mut JoinConstraint,
) -> Result<(), SqlError> {
    let JoinConstraint::Using(columns) = constraint else {
        return Ok(());
    };
    let mut conditions = Vec::new();
    let mut are_first = true;
    for column in columns.iter().filter_map(last_of) {
        let (Some(of_left), Some(of_right)) = (left.take(&column), right.take(&column)) else {
            // The engine says which side has none.
            return Ok(());
        };
        are_first &= of_left.is_first && of_right.is_first;
        let (one, other) = (of_left.value()?, of_right.value()?);
        conditions.push(format!("{one} = {other}"));
        left.shared.push(match stays {
            Stays::Left | Stays::LeftAlone => of_left,
            Stays::Right => Shared {
                is_first: false,
                ..of_right
            },
            Stays::Both => Shared {
                name: column,
                columns: [of_left.columns, of_right.columns].concat(),
                is_first: false,
            },
        });
    }
    if !are_first {
        *constraint = JoinConstraint::On(parse_expression(&conditions.join(" AND "))?);
    }
    Ok(())
}

/// The constraint of a join that may have one.
pub(super) fn constraint_mut(join: &mut JoinOperator) -> Option<&mut JoinConstraint> {
    match join {
        JoinOperator::Join(of)
        | JoinOperator::Inner(of)
        | JoinOperator::Left(of)
        | JoinOperator::LeftOuter(of)
        | JoinOperator::Right(of)
        | JoinOperator::RightOuter(of)
        | JoinOperator::FullOuter(of)
        | JoinOperator::Semi(of)
        | JoinOperator::LeftSemi(of)
        | JoinOperator::Anti(of)
        | JoinOperator::LeftAnti(of) => Some(of),
        _ => None,
    }
}

/// The topic that a table may be, which is one of the schema of topics.
fn topic_of(name: &ObjectName) -> Option<Ident> {
    match name.0.as_slice() {
        [.., schema, topic] => {
            let schema = schema.as_ident().map(name_of);
            let is_topics = schema.as_deref() == Some(TOPICS_SCHEMA);
            topic.as_ident().filter(|_| is_topics).cloned()
        }
        [topic] => topic.as_ident().cloned(),
        [] => None,
    }
}

/// A name of one part.
pub(super) fn last_of(name: &ObjectName) -> Option<Ident> {
    match name.0.as_slice() {
        [one] => one.as_ident().cloned(),
        _ => None,
    }
}
