//! `millpond topic lite …`: the lite topics of a parent, and who listens to them.

use clap::Subcommand;
use millpond_proto::client::Admin;
use millpond_proto::wire::admin::{ListLiteTopicsRequest, LiteTopic};

use crate::cli::error::CliError;
use crate::cli::output::{Cell, Format, Table, counted};
use crate::cli::run::Terminal;

/// `millpond topic lite …`.
#[derive(Debug, Subcommand)]
pub enum LiteCommand {
    /// List lite topics of a parent.
    #[command(visible_alias = "list")]
    Ls {
        /// The parent.
        topic: String,
        /// Most lite topics.
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// How to print.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Show a lite topic and where each group stands in it.
    #[command(visible_alias = "describe")]
    Info {
        /// The parent.
        topic: String,
        /// Its name.
        name: String,
        /// How to print the groups.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Show what each consumer of a group listens to.
    Listeners {
        /// Name of the group.
        group: String,
        /// How to print.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// End a lite topic: no group is given its messages any more; they stay in the parent.
    #[command(visible_alias = "delete")]
    Rm {
        /// The parent.
        topic: String,
        /// Its name.
        name: String,
    },
}

/// Does a command about lite topics.
///
/// # Errors
/// [`CliError`].
pub async fn run(
    admin: &Admin,
    command: &LiteCommand,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    match command {
        LiteCommand::Ls {
            topic,
            limit,
            output,
        } => list(admin, topic, *limit, *output, terminal).await,
        LiteCommand::Info {
            topic,
            name,
            output,
        } => info(admin, topic, name, *output, terminal).await,
        LiteCommand::Listeners { group, output } => {
            let mut table = Table::new(&["consumer", "lite_topic"]);
            for listener in admin.list_lite_listeners(group).await? {
                let names = listener.lite_topics.into_iter();
                let rows = names.map(|name| vec![listener.consumer.clone().into(), name.into()]);
                table.rows.extend(rows);
            }
            table.print(*output, terminal.out).map_err(CliError::output)
        }
        LiteCommand::Rm { topic, name } => {
            admin.end_lite_topic(topic, name).await?;
            terminal.say(&format!("ended lite topic {name} of {topic}"))
        }
    }
}

async fn list(
    admin: &Admin,
    topic: &str,
    limit: u32,
    output: Format,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let mut table = Table::new(&["lite_topic", "queue", "messages", "last_message", "ends"]);
    let mut from = None;
    loop {
        let left = limit - u32::try_from(table.rows.len()).unwrap_or(limit);
        let request = ListLiteTopicsRequest {
            topic: topic.to_owned(),
            limit: left,
            from: from.take(),
            ..ListLiteTopicsRequest::default()
        };
        let answer = admin.list_lite_topics(request).await?;
        let shown = answer.topics.iter();
        table.rows.extend(shown.map(|one| {
            vec![
                one.name.clone().into(),
                one.queue.into(),
                one.messages.into(),
                at(one.stored_at.as_ref()),
                at(one.ends_at.as_ref()),
            ]
        }));
        from = answer.next;
        if from.is_none() || table.rows.len() >= limit as usize {
            table
                .print(output, terminal.out)
                .map_err(CliError::output)?;
            if output == Format::Table && answer.count > table.rows.len() as u64 {
                let all = answer.count;
                terminal.say(&format!("these are {} of {all}", table.rows.len()))?;
            }
            return Ok(());
        }
    }
}

async fn info(
    admin: &Admin,
    topic: &str,
    name: &str,
    output: Format,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let request = ListLiteTopicsRequest {
        topic: topic.to_owned(),
        name: name.to_owned(),
        ..ListLiteTopicsRequest::default()
    };
    let mut answer = admin.list_lite_topics(request).await?;
    let found: LiteTopic = answer.topics.pop().unwrap_or_default();
    if output == Format::Table {
        let text = format!(
            "lite topic {} of {topic}: {} in queue {}",
            found.name,
            counted(found.messages, "message"),
            found.queue
        );
        writeln!(terminal.out, "{text}\n").map_err(CliError::output)?;
    }
    let mut table = Table::new(&["group", "in_flight", "lag"]);
    let groups = found.groups.into_iter();
    table.rows = groups
        .map(|group| vec![group.group.into(), group.in_flight.into(), group.lag.into()])
        .collect();
    table.print(output, terminal.out).map_err(CliError::output)
}

fn at(time: Option<&prost_types::Timestamp>) -> Cell {
    time.map(ToString::to_string).into()
}
