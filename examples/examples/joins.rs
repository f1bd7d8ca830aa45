//! Lesson 4: a view joins two topics, in whatever order their rows come.
//!
//! Prints the view's rows before and after the customer of an order is known.

use std::io::Write as _;

use millpond_examples::{Lesson, begin_anew, caught_up, connect, execute, rows};

const CUSTOMERS: &str = "lesson_customers";
const ORDERS: &str = "lesson_customer_orders";
const VIEW: &str = "lesson_orders_of_cities";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Lesson {
    let client = connect()?;
    let mut out = std::io::stdout();
    begin_anew(&client, &[VIEW], &[CUSTOMERS, ORDERS]).await?;
    for statement in [
        format!("CREATE TOPIC {CUSTOMERS} (id BIGINT, city VARCHAR)"),
        format!("CREATE TOPIC {ORDERS} (customer BIGINT, amount BIGINT)"),
        format!(
            "CREATE MATERIALIZED VIEW {VIEW} AS \
             SELECT c.city, sum(o.amount) AS amount, count(*) AS orders \
             FROM {ORDERS} o JOIN {CUSTOMERS} c ON o.customer = c.id GROUP BY c.city"
        ),
        format!("INSERT INTO {CUSTOMERS} (id, city) VALUES (1, 'Oslo')"),
        format!("INSERT INTO {ORDERS} (customer, amount) VALUES (1, 20), (2, 5), (1, 1)"),
    ] {
        execute(&client, &statement).await?;
    }
    let question = format!("SELECT city, amount, orders FROM {VIEW} ORDER BY city");
    caught_up(&client, VIEW, 4).await?;
    for row in rows(&client, &question).await? {
        writeln!(out, "before: {row}")?;
    }
    // The order of customer 2 waits for this row, and not the other way round.
    let late = format!("INSERT INTO {CUSTOMERS} (id, city) VALUES (2, 'Rome')");
    execute(&client, &late).await?;
    caught_up(&client, VIEW, 5).await?;
    for row in rows(&client, &question).await? {
        writeln!(out, "after: {row}")?;
    }
    Ok(())
}
