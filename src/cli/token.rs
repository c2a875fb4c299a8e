//! `segno token`: tokens of the access file. No hub need run; one that runs sees the change.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use humantime::parse_duration;

use super::print;
use crate::{
    auth::{self, Access, NewToken, Presented, TOKEN_PREFIX, TokenHash, TokenName},
    event::Timestamp,
    filter::Pattern,
    rights::{Grants, Quota, RATE_MAX_EVENTS},
};

/// What may be done with tokens.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Token {
    /// Make a token, put its hash into the access file and print the token, this once.
    Add(AddFlags),
    /// List the tokens of the access file and what they may do.
    List(AccessFlags),
    /// Remove a token from the access file. A hub that runs ends its streams within 2 s.
    Remove(RemoveFlags),
    /// Say who a token or a JSON Web Token stands for and what it may do, or why it is refused. Ends with 1 if it is refused.
    Check(CheckFlags),
}

/// Which access file.
#[derive(Debug, Clone, Args)]
pub(super) struct AccessFlags {
    /// The access file.
    #[arg(
        long,
        env = "SEGNO_ACCESS",
        default_value = "access.toml",
        value_name = "FILE"
    )]
    access: PathBuf,
}

/// What `segno token add` may be told.
#[derive(Debug, Clone, Args)]
pub(super) struct AddFlags {
    /// Its name, for people.
    name: TokenName,

    /// A topic or pattern to publish on, such as `orders.**`. May be repeated.
    #[arg(long, value_name = "TOPIC", value_parser = parse_pattern)]
    publish: Vec<Pattern>,

    /// A topic or pattern to follow. May be repeated.
    #[arg(long, value_name = "TOPIC", value_parser = parse_pattern)]
    follow: Vec<Pattern>,

    /// A topic or pattern whose events may be erased. May be repeated.
    #[arg(long, value_name = "TOPIC", value_parser = parse_pattern)]
    erase: Vec<Pattern>,

    /// Let it read metrics, statistics and details of health.
    #[arg(long)]
    operate: bool,

    /// Streams that it may have open. No limit of its own if not given.
    #[arg(long, value_name = "N")]
    streams: Option<NonZeroU32>,

    /// Events a second that it may publish. No limit of its own if not given.
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    rate: Option<NonZeroU32>,

    /// Events that it may publish at once before its rate counts. The events of ten seconds if not given.
    #[arg(long, value_name = "N", requires = "rate")]
    burst: Option<NonZeroU32>,

    /// How long it is good, such as `90d`. Until it is removed if not given.
    #[arg(long, value_name = "AGE", value_parser = parse_duration)]
    expires: Option<Duration>,

    /// Where to put it.
    #[command(flatten)]
    file: AccessFlags,
}

/// What `segno token remove` may be told.
#[derive(Debug, Clone, Args)]
pub(super) struct RemoveFlags {
    /// Its name.
    name: TokenName,

    /// Where it is.
    #[command(flatten)]
    file: AccessFlags,
}

/// What `segno token check` may be told.
#[derive(Debug, Clone, Args)]
pub(super) struct CheckFlags {
    /// The token or JSON Web Token. Read from standard input if not given, which keeps it out of the history of the shell.
    #[arg(env = "SEGNO_TOKEN", hide_env_values = true)]
    token: Option<String>,

    /// The rules.
    #[command(flatten)]
    file: AccessFlags,
}

fn parse_pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|error| error.to_string())
}

fn parse_rate(text: &str) -> Result<NonZeroU32, String> {
    let rate = text
        .parse()
        .ok()
        .filter(|rate: &NonZeroU32| rate.get() <= RATE_MAX_EVENTS);
    rate.ok_or_else(|| format!("a rate is 1 to {RATE_MAX_EVENTS} events a second"))
}

pub(super) async fn run(command: Token) -> anyhow::Result<()> {
    match command {
        Token::Add(flags) => add(&flags),
        Token::List(flags) => list(&flags),
        Token::Remove(flags) => remove(&flags),
        Token::Check(flags) => check(flags).await,
    }
}

fn add(flags: &AddFlags) -> anyhow::Result<()> {
    let token = auth::new_token();
    let grants = Grants {
        publish: flags.publish.clone(),
        follow: flags.follow.clone(),
        erase: flags.erase.clone(),
        operate: flags.operate,
    };
    let new = NewToken {
        name: flags.name.clone(),
        hash: TokenHash::of(&token),
        grants,
        quota: Quota {
            streams: flags.streams,
            rate: flags.rate,
            burst: flags.burst,
        },
        expires: flags.expires.map(|age| Timestamp::now().after(age)),
    };
    auth::add_token(&flags.file.access, &new)?;
    print(&format!("{token}\n"))
}

fn list(flags: &AccessFlags) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let lines = auth::list_tokens(&flags.access)?.into_iter().map(|token| {
        let expires = match token.expires {
            None => String::new(),
            Some(expires) if expires <= now => format!("  expired {expires}"),
            Some(expires) => format!("  expires {expires}"),
        };
        let rights = in_words(&token.grants);
        format!("{}  {rights}{}{expires}\n", token.name, limits(token.quota))
    });
    print(&lines.collect::<String>())
}

/// Rights in one line, such as `publish orders.**; operate`.
fn in_words(grants: &Grants) -> String {
    let of = |right: &str, patterns: &[Pattern]| {
        let patterns: Vec<String> = patterns.iter().map(Pattern::to_string).collect();
        (!patterns.is_empty()).then(|| format!("{right} {}", patterns.join(", ")))
    };
    let rights = [
        of("publish", &grants.publish),
        of("follow", &grants.follow),
        of("erase", &grants.erase),
        grants.operate.then(|| "operate".into()),
    ];
    let rights: Vec<String> = rights.into_iter().flatten().collect();
    match rights.is_empty() {
        true => "no rights of its own".into(),
        false => rights.join("; "),
    }
}

/// Limits in one line, such as `; 5 streams at most`; nothing where there are none.
fn limits(quota: Quota) -> String {
    let of = |number: Option<NonZeroU32>, what: &str| {
        number.map_or_else(String::new, |number| format!("; at most {number} {what}"))
    };
    of(quota.streams, "streams") + &of(quota.rate, "events a second")
}

fn remove(flags: &RemoveFlags) -> anyhow::Result<()> {
    auth::remove_token(&flags.file.access, &flags.name)?;
    Ok(())
}

async fn check(flags: CheckFlags) -> anyhow::Result<()> {
    let token = match flags.token {
        Some(token) => token,
        None => std::io::read_to_string(std::io::stdin()).context("cannot read the token")?,
    };
    let token = token.trim();
    // No ticket is checked here: the key is the hub's.
    let no_key = PathBuf::new();
    let access = Access::read(&flags.file.access, no_key)?;
    match access.identify(Presented::Token(token)).await {
        Ok(caller) => print(&format!(
            "name     {}\n{}\n{}{}{}",
            caller.name().unwrap_or("nobody"),
            caller.rights(),
            in_a_line("streams", caller.quota().streams),
            in_a_line("rate", caller.quota().rate),
            match caller.expires() {
                Some(expires) => format!("expires  {expires}\n"),
                None => String::new(),
            }
        )),
        Err(reason) if token.starts_with(TOKEN_PREFIX) => bail!("the token is refused: {reason}"),
        Err(reason) => bail!("it is refused: {reason}"),
    }
}

fn in_a_line(limit: &str, number: Option<NonZeroU32>) -> String {
    number.map_or_else(String::new, |number| format!("{limit:<8} {number}\n"))
}
