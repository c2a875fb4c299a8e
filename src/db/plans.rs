//! How SQLite reads the file for each statement that runs often, as `explain query plan` tells it.
//!
//! A line that says `SCAN events` without a limit reads the whole log; `USE TEMP B-TREE` sorts, and must never have rows
//! with their data to sort.

use super::{append, commands, erase, page, topics, trim};

/// The plan of each of the [`STATEMENTS`], a blank line between two.
const PLANS: &str = include_str!("plans.txt");

#[tokio::test]
async fn each_statement_reads_no_more_than_it_must() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _appender) = super::open(&folder.path().join("segno.db")).await.unwrap();
    let mut plans = String::new();
    for (name, sql) in STATEMENTS {
        plans.push_str(&format!(
            "{}{name}\n",
            if plans.is_empty() { "" } else { "\n" }
        ));
        let explain = sqlx::AssertSqlSafe(format!("explain query plan {sql}"));
        let rows: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(explain).fetch_all(&log.pool).await.unwrap();
        let mut depths = std::collections::HashMap::from([(0, 0)]);
        for (node, parent, _, step) in rows {
            let depth = depths[&parent] + 1;
            depths.insert(node, depth);
            plans.push_str(&format!("{}{step}\n", "  ".repeat(depth)));
        }
    }
    if std::env::var_os("SEGNO_WRITE_PLANS").is_some() {
        std::fs::write("src/db/plans.txt", &plans).unwrap();
    }
    assert!(
        plans == PLANS,
        "the plans are now (SEGNO_WRITE_PLANS=1 keeps them):\n{plans}"
    );
}

/// The statements that run often or over much.
const STATEMENTS: &[(&str, &str)] = &[
    ("append::INSERT", append::INSERT),
    ("commands::NOTE_ERASED", commands::NOTE_ERASED),
    (
        "commands::NOTE_ERASED_OF_TOPIC",
        commands::NOTE_ERASED_OF_TOPIC,
    ),
    ("commands::REMOVALS", commands::REMOVALS),
    ("append::INSERT_RUN", append::INSERT_RUN),
    ("append::FIND_KEYS", append::FIND_KEYS),
    ("page::PAGE_ASCENDING", page::PAGE_ASCENDING),
    ("page::PAGE_DESCENDING", page::PAGE_DESCENDING),
    (
        "page::PAGE_OF_TOPICS_ASCENDING",
        page::PAGE_OF_TOPICS_ASCENDING,
    ),
    (
        "page::PAGE_OF_TOPICS_DESCENDING",
        page::PAGE_OF_TOPICS_DESCENDING,
    ),
    ("page::SIZES_ASCENDING", page::SIZES_ASCENDING),
    ("page::SIZES_DESCENDING", page::SIZES_DESCENDING),
    (
        "page::SIZES_OF_TOPICS_ASCENDING",
        page::SIZES_OF_TOPICS_ASCENDING,
    ),
    (
        "page::SIZES_OF_TOPICS_DESCENDING",
        page::SIZES_OF_TOPICS_DESCENDING,
    ),
    ("page::EVENTS_OF_IDS", page::EVENTS_OF_IDS),
    ("page::TOPIC_NAMES_FROM", page::TOPIC_NAMES_FROM),
    ("page::EVENT", page::EVENT),
    ("page::FIRST_ID", page::FIRST_ID),
    ("page::LAST_ID", page::LAST_ID),
    ("page::NTH_ID", page::NTH_ID),
    ("page::FIRST_ID_SINCE", page::FIRST_ID_SINCE),
    ("page::COUNT", page::COUNT),
    ("topics::TOPICS_AFTER", topics::TOPICS_AFTER),
    ("topics::TOPIC_NAMES_AFTER", topics::TOPIC_NAMES_AFTER),
    ("topics::LAST_ID_OF_TOPIC", topics::LAST_ID_OF_TOPIC),
    (
        "topics::LAST_ID_OF_TOPIC_BEFORE_NEWEST",
        topics::LAST_ID_OF_TOPIC_BEFORE_NEWEST,
    ),
    ("trim::TRIM_STEP", trim::TRIM_STEP),
    ("trim::TRIM_STEP_OF_TOPIC", trim::TRIM_STEP_OF_TOPIC),
    ("trim::TRIM", trim::TRIM),
    ("trim::TRIM_TOPIC", trim::TRIM_TOPIC),
    ("trim::TRIMMED_OF_TOPICS", trim::TRIMMED_OF_TOPICS),
    ("trim::TRIMMED_OF_ANY", trim::TRIMMED_OF_ANY),
    ("trim::TRIMMED", trim::TRIMMED),
    ("trim::FORGET_MARKS", trim::FORGET_MARKS),
    ("erase::ERASE", erase::ERASE),
];

/// Rows of large events, sorted with their data, took 102 MB of temporary file for one page.
#[test]
fn a_page_sorts_ids_and_never_rows() {
    let of_rows = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    for statement in PLANS
        .split("\n\n")
        .filter(|plan| plan.starts_with("page::PAGE"))
    {
        assert!(statement.lines().filter(of_rows).count() > 0, "{statement}");
        for line in statement.lines().filter(of_rows) {
            assert!(!line.contains("TEMP B-TREE"), "{statement}");
        }
    }
}
