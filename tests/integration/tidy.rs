//! The rules of the house that a test can hold: who may know whom, and what no module does.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A word, the modules that may say it, and why no other may.
const ARROWS: &[(&str, &[&str], &str)] = &[
    ("sqlx", &["db"], "SQL is in the event log alone"),
    ("poem", &["http", "server"], "HTTP is at the edge"),
    (
        "crate::http",
        &["http", "server", "config", "cli"],
        "the hub does not know how it is spoken to",
    ),
    (
        "crate::hub",
        &[
            "http",
            "server",
            "config",
            "cli",
            "retention",
            "monitor",
            "joining",
        ],
        "nothing below the hub knows it",
    ),
    (
        "crate::limits",
        &["http", "server", "config"],
        "the hub does not know who speaks to it",
    ),
    (
        "crate::server",
        &["config", "cli"],
        "the server is at the top",
    ),
    (
        "clap",
        &["config", "cli"],
        "rooms below take plain settings, not flags",
    ),
    ("crate::config", &["cli"], "flags become settings up there"),
    (
        "crate::client",
        &["cli", "joining"],
        "the client sees the hub from outside",
    ),
    (
        "reqwest",
        &["client", "cli", "auth", "server"],
        "the client, the one who sends spans to a collector, the one who fetches the keys of issuers, and the one who orders certificates",
    ),
    (
        "async_nats",
        &["jetstream"],
        "what the client of NATS does is dealt with in one place",
    ),
    (
        "crate::jetstream",
        &["hub", "config", "cli", "joining"],
        "who puts commands in order is the hub's",
    ),
    ("broadcast", &["hub"], "announcing is the hub's"),
    (
        "create(true)",
        &["cli", "db"],
        "a name that others can guess may be a link of theirs: `files` makes files, or it is one that the user named, or NOFOLLOW",
    ),
    ("truncate(true)", &[], "the same"),
    ("File::create", &[], "the same"),
    (
        "unbounded_channel",
        &[],
        "everything that waits has a bound",
    ),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code of each source file, without comments, by its path under `src/`.
fn code() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let without_comments = |text: String| {
        text.lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let name = |path: &Path| {
        path.strip_prefix(&src)
            .unwrap()
            .to_string_lossy()
            .into_owned()
    };
    files
        .iter()
        .map(|path| {
            (
                name(path),
                without_comments(fs::read_to_string(path).unwrap()),
            )
        })
        .collect()
}

/// Whether `word` stands in `code`, not as a part of a longer one.
fn says(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[test]
fn arrows_point_down_only() {
    let code = code();
    assert!(code.len() > 20);
    for (word, allowed, reason) in ARROWS {
        for (file, code) in &code {
            let module = file.split(['/', '.']).next().unwrap();
            assert!(
                allowed.contains(&module) || !says(code, word),
                "src/{file} says {word}: {reason}"
            );
        }
        for module in *allowed {
            let exists = code
                .iter()
                .any(|(file, _)| file.split(['/', '.']).next() == Some(module));
            assert!(exists || *module == "retention", "{module} is no module");
        }
    }
}

#[test]
fn modules_are_named_for_nouns_of_the_field() {
    for (file, _) in code() {
        for name in file.trim_end_matches(".rs").split('/') {
            assert!(
                !["utils", "util", "common", "types", "helpers", "mod", "misc"].contains(&name),
                "src/{file}"
            );
        }
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (file, _) in code() {
        let text = fs::read_to_string(src.join(&file)).unwrap();
        assert!(
            text.starts_with("//! "),
            "src/{file} does not begin with what it is for"
        );
    }
}

#[test]
fn main_is_small() {
    let (_, main) = code()
        .into_iter()
        .find(|(file, _)| file == "main.rs")
        .unwrap();
    assert!(main.lines().count() < 40);
}

/// The Dockerfile builds the dependencies from the manifest and an empty program. Cargo looks for a test or bench that has
/// no `path` of its own, and then finds none.
#[test]
fn the_manifest_alone_is_enough_to_build_the_dependencies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    for file in ["Cargo.toml", "Cargo.lock"] {
        fs::copy(root.join(file), folder.path().join(file)).unwrap();
    }
    fs::create_dir(folder.path().join("src")).unwrap();
    for file in ["src/lib.rs", "src/main.rs"] {
        fs::write(folder.path().join(file), "").unwrap();
    }
    let read = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(
        read.status.success(),
        "{}",
        String::from_utf8_lossy(&read.stderr)
    );
}

/// The image is built from the files that the Dockerfile copies, and of these only from what `.dockerignore` lets through.
#[test]
fn the_image_is_built_with_every_file_that_the_program_includes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .canonicalize()
        .unwrap();
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
    let (dockerfile, ignored) = (read("Dockerfile"), read(".dockerignore"));
    let let_through: Vec<&str> = ignored
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .collect();
    let copied: Vec<&str> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|sources| !sources.starts_with("--from"))
        .flat_map(|copy| copy.rsplit_once(' ').unwrap().0.split(' '))
        .collect();
    assert!(copied.len() > 5, "{copied:?}");
    for source in &copied {
        assert!(root.join(source).exists(), "{source}");
        assert!(
            let_through
                .iter()
                .any(|path| Path::new(source).starts_with(path)),
            ".dockerignore keeps {source} from the image"
        );
    }
    let mut included = 0;
    for (file, code) in code() {
        let folder = root.join("src").join(&file);
        for macro_name in ["include_str!(", "include_bytes!("] {
            for argument in code.split(macro_name).skip(1) {
                let Some(path) = argument.split('"').nth(1) else {
                    continue;
                };
                let path = folder.parent().unwrap().join(path);
                let path = path.canonicalize().unwrap();
                let path = path.strip_prefix(&root).unwrap();
                included += 1;
                assert!(
                    copied.iter().any(|source| path.starts_with(source)),
                    "src/{file} includes {}, which is not in the image",
                    path.display()
                );
            }
        }
    }
    assert!(included > 5, "{included}");
}
