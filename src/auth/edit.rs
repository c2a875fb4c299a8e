//! Changes to the access file that keep its comments and its order.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

use super::{
    file::{AccessFile, AccessFileError},
    token::{TokenHash, TokenName},
};
use crate::{
    event::Timestamp,
    files::{self, OWNER_ONLY},
    filter::Pattern,
    rights::{Grants, Quota},
};

/// What a new file begins with.
const HEAD: &str = "\
# Who may do what at the hub: segno serve --access THIS_FILE
# Change it while the hub runs: it is read again, and a mistake is logged and changes nothing.
#
# Who shows no credential may do nothing, unless it is said here:
# [anonymous]
# follow = [\"public.**\"]
";

/// Why the access file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It is wrong already.
    #[error(transparent)]
    File(#[from] AccessFileError),
    /// A token of this name is there.
    #[error("there is a token named {0} already; remove it first, or choose another name")]
    Exists(String),
    /// No token of this name is there.
    #[error("there is no token named {0}; `segno token list` says which there are")]
    NotThere(String),
    /// The new file cannot be written.
    #[error("cannot write {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A token as the access file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedToken {
    /// Its name.
    pub name: String,
    /// What it may do, beside what everybody may.
    pub grants: Grants,
    /// How much of it.
    pub quota: Quota,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// A token that is to be put into the access file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Its name.
    pub name: TokenName,
    /// Its hash.
    pub hash: TokenHash,
    /// What it may do.
    pub grants: Grants,
    /// How much of it.
    pub quota: Quota,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// The tokens of the access file at `path`, in its order.
pub fn list_tokens(path: &Path) -> Result<Vec<ListedToken>, AccessFileError> {
    let (file, _) = AccessFile::read(path)?;
    let tokens = file.token.iter().map(|token| ListedToken {
        name: token.name.get_ref().as_str().to_owned(),
        grants: token.grants(),
        quota: token.quota(),
        expires: token.expires,
    });
    Ok(tokens.collect())
}

/// Puts a token into the access file at `path`, which is made if it is not there.
pub fn add_token(path: &Path, new: &NewToken) -> Result<(), EditError> {
    let NewToken {
        name,
        hash,
        grants,
        quota,
        expires,
    } = new;
    let path = &real(path)?;
    let folder = lock_folder(path)?;
    let (file, mut document) = read(path)?;
    let is_same = |token: &super::entry::TokenEntry| token.name.get_ref() == name;
    if file.token.iter().any(is_same) {
        return Err(EditError::Exists(name.as_str().to_owned()));
    }
    let mut table = Table::new();
    table.insert("name", value(name.as_str()));
    table.insert("sha256", value(hash.to_string()));
    for (right, patterns) in [
        ("publish", &grants.publish),
        ("follow", &grants.follow),
        ("erase", &grants.erase),
    ] {
        if !patterns.is_empty() {
            table.insert(right, list(patterns));
        }
    }
    if grants.operate {
        table.insert("operate", value(true));
    }
    for (limit, number) in [
        ("streams", quota.streams),
        ("rate", quota.rate),
        ("burst", quota.burst),
    ] {
        if let Some(number) = number {
            table.insert(limit, value(i64::from(number.get())));
        }
    }
    if let Some(expires) = expires {
        let moment: toml_edit::Datetime = expires
            .to_string()
            .parse()
            .expect("RFC 3339 is a TOML datetime");
        table.insert("expires", value(moment));
    }
    // What stands behind everything else stays before what comes now: the comments of a file without tables, too.
    let before = document.trailing().as_str().unwrap_or_default();
    let before = format!("{before}\n");
    table.decor_mut().set_prefix(before);
    document.set_trailing("");
    table.set_position(Some(isize::MAX));
    tokens(&mut document).push(table);
    write(path, &document, &folder)
}

/// Takes the token of this name out of the access file at `path`.
pub fn remove_token(path: &Path, name: &TokenName) -> Result<(), EditError> {
    let path = &real(path)?;
    let folder = lock_folder(path)?;
    let (file, mut document) = read(path)?;
    let at = file
        .token
        .iter()
        .position(|token| token.name.get_ref() == name)
        .ok_or_else(|| EditError::NotThere(name.as_str().to_owned()))?;
    match document.get_mut("token") {
        Some(Item::ArrayOfTables(tables)) => {
            tables.remove(at);
        }
        // Written as `token = [{…}]`.
        Some(Item::Value(toml_edit::Value::Array(tables))) => {
            tables.remove(at);
        }
        _ => unreachable!("it was read from there"),
    }
    write(path, &document, &folder)
}

fn list(patterns: &[Pattern]) -> Item {
    let patterns = patterns.iter().map(Pattern::to_string);
    value(patterns.collect::<Array>())
}

fn tokens(document: &mut DocumentMut) -> &mut ArrayOfTables {
    let tokens = document
        .entry("token")
        .or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    if let Item::Value(_) = tokens {
        let inline = std::mem::take(tokens).into_array_of_tables();
        *tokens = Item::ArrayOfTables(inline.unwrap_or_default());
    }
    tokens
        .as_array_of_tables_mut()
        .expect("what was read as tokens is a list of tables")
}

/// The file, which must be right as it is, for an edit must not hide an old mistake.
fn read(path: &Path) -> Result<(AccessFile, DocumentMut), EditError> {
    let io = |source| AccessFileError::Io {
        path: path.to_owned(),
        source,
    };
    if !path.try_exists().map_err(io)? {
        let file = AccessFile::of_everybody(Grants::default());
        return Ok((file, HEAD.parse().expect("comments are TOML")));
    }
    let (file, _) = AccessFile::read(path)?;
    let text = fs::read_to_string(path).map_err(io)?;
    Ok((file, text.parse().expect("it was parsed a moment ago")))
}

/// What a link points to, not the link.
fn real(path: &Path) -> Result<PathBuf, EditError> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(path.to_owned()),
        found => found.map_err(|source| io_error(path, source)),
    }
}

/// Waits until nobody else changes the file, and keeps others waiting until what it gives is dropped. The folder is locked, since
/// the file itself is replaced.
fn lock_folder(path: &Path) -> Result<File, EditError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let opened = File::open(folder).and_then(|folder| {
        folder.lock()?;
        Ok(folder)
    });
    opened.map_err(|source| io_error(path, source))
}

/// Replaces the file in one step, with the permissions that it had: a hub that reads it meanwhile sees the old one or the new
/// one.
fn write(path: &Path, document: &DocumentMut, folder: &File) -> Result<(), EditError> {
    // There is no secret in it, but it says where to look for one.
    let mode = fs::metadata(path).map_or(OWNER_ONLY, |found| found.permissions().mode());
    files::replace(path, mode, document.to_string().as_bytes())
        // A token that was printed is good after a power cut, too.
        .and_then(|()| folder.sync_all())
        .map_err(|source| io_error(path, source))
}

fn io_error(path: &Path, source: io::Error) -> EditError {
    EditError::Io {
        path: path.to_owned(),
        source,
    }
}
