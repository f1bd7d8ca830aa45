//! What to say when the words of the command line are in the wrong order.

/// The right command for words that are wrong in a way that people often are.
#[must_use]
pub fn advice(words: &[String]) -> Option<String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let rest = |from: usize| {
        words
            .iter()
            .skip(from)
            .fold(String::new(), |mut text, word| {
                text.push(' ');
                text.push_str(word);
                text
            })
    };
    let noun = |word: &str| match word {
        "topic" | "topics" => Some("topic"),
        "group" | "groups" | "consumer-group" => Some("group"),
        "job" | "jobs" | "query" | "view" => Some("job"),
        "dlq" | "dead-letters" | "dead-letter" => Some("dlq"),
        _ => None,
    };
    let verb = |word: &str| match word {
        "create" | "add" | "new" | "make" => Some("create"),
        "ls" | "list" | "show" => Some("ls"),
        "info" | "describe" | "get" | "inspect" => Some("info"),
        "rm" | "delete" | "drop" | "remove" => Some("rm"),
        "produce" | "send" | "publish" | "put" => Some("produce"),
        "consume" | "receive" | "read" | "peek" | "tail" | "subscribe" => Some("consume"),
        _ => None,
    };
    match words.as_slice() {
        // Verb before noun, as in kubectl.
        [first, second, ..] if verb(first).is_some() && noun(second).is_some() => Some(format!(
            "millpond {} {}{}",
            noun(second)?,
            verb(first)?,
            rest(2)
        )),
        ["message" | "messages", ..] => Some(format!("millpond msg{}", rest(1))),
        ["find" | "trace", ..] => Some(format!("millpond msg{}", rest(0))),
        // A topic's verb without its noun.
        [first, ..] if matches!(verb(first), Some("produce" | "consume")) => {
            Some(format!("millpond topic {}{}", verb(first)?, rest(1)))
        }
        [first, second, ..] if noun(first).is_some() && verb(second).is_some() => {
            let command = format!("millpond {} {}{}", noun(first)?, verb(second)?, rest(2));
            let typed = format!("millpond{}", rest(0));
            (command != typed).then_some(command)
        }
        ["topics" | "groups" | "jobs"] => Some(format!("millpond {} ls", noun(words.first()?)?)),
        ["sql", statement] if statement.contains(' ') => {
            Some(format!("millpond sql -c \"{statement}\""))
        }
        ["query" | "select" | "SELECT", ..] => Some("millpond sql -c \"SELECT …\"".to_owned()),
        ["import", file, topic] if !topic.starts_with('-') => {
            Some(format!("millpond import {file} --to {topic}"))
        }
        ["import", file] if !file.starts_with('-') => {
            Some(format!("millpond import {file} --to TOPIC"))
        }
        ["export", source, file] if !file.starts_with('-') => {
            Some(format!("millpond export \"{source}\" --to {file}"))
        }
        ["export", source] if !source.starts_with('-') => {
            Some(format!("millpond export \"{source}\" --to FILE.parquet"))
        }
        ["start" | "run" | "server" | "up", ..] => Some(format!("millpond serve{}", rest(1))),
        ["tier", ..] => Some("millpond storage tier".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advised(line: &str) -> Option<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        advice(&words)
    }

    #[test]
    fn swapped_or_forgotten_words_lead_to_the_right_command() {
        for (wrong, right) in [
            (
                "create topic orders --queues 4",
                "millpond topic create orders --queues 4",
            ),
            ("list topics", "millpond topic ls"),
            ("produce orders", "millpond topic produce orders"),
            ("topics", "millpond topic ls"),
            ("topic drop orders", "millpond topic rm orders"),
            ("messages ls orders", "millpond msg ls orders"),
            ("find orders --key k", "millpond msg find orders --key k"),
            ("import f.csv flights", "millpond import f.csv --to flights"),
            ("import f.csv", "millpond import f.csv --to TOPIC"),
            ("start --data d", "millpond serve --data d"),
        ] {
            assert_eq!(advised(wrong).as_deref(), Some(right), "{wrong}");
        }
        assert_eq!(advised("topic create"), None);
    }
}
