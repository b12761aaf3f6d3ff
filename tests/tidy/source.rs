//! The repository's Rust files and as much of the language as the rules need: names, paths and
//! string literals with their lines, outside of comments; which tokens are compiled for tests only;
//! which files a `mod` line leads to. No grammar. Called by the rules in `main.rs`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the repository, in order.
pub fn tree() -> Vec<Source> {
    let mut paths = Vec::new();
    for directory in ["src", "tests", "benches", "examples"] {
        collect(&root().join(directory), &mut paths);
    }
    paths.sort();
    assert!(paths.len() > 10, "the source tree is not where it was");
    let sources = paths.iter().map(|path| {
        let name = path.strip_prefix(root()).expect("collected below the root");
        let text = fs::read_to_string(path).expect("Rust files are text");
        Source::new(name.to_str().expect("paths are text"), text)
    });
    with_test_files(sources.collect())
}

/// Marks the files that a `#[cfg(test)] mod` leads to, and those below them.
pub fn with_test_files(mut sources: Vec<Source>) -> Vec<Source> {
    loop {
        let children = sources.iter().flat_map(Source::children);
        let tests: BTreeSet<_> =
            children.filter(|child| child.in_tests).map(|child| child.path).collect();
        let mut changed = false;
        for source in &mut sources {
            changed |= !source.only_tests && tests.contains(&source.path);
            source.only_tests |= tests.contains(&source.path);
        }
        if !changed {
            return sources;
        }
    }
}

fn collect(directory: &Path, into: &mut Vec<PathBuf>) {
    for name in names_in(directory) {
        let path = directory.join(&name);
        if path.is_dir() && name != "target" && name != "node_modules" && !name.starts_with('.') {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

pub fn names_in(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// The name in a line `path = "fuzz_targets/name.rs"` of the fuzz manifest.
pub fn fuzz_target(line: &str) -> Option<String> {
    let name = line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\"")?;
    Some(name.to_owned())
}

pub struct Source {
    /// Relative to the repository, `src/rtp/demux.rs`.
    pub path: String,
    pub text: String,
    pub tokens: Vec<Token>,
    /// Whether the whole file is compiled for tests only.
    only_tests: bool,
}

/// A file that a `mod` line may mean.
pub struct Child {
    pub path: String,
    in_tests: bool,
}

/// `a::b::c`, written out or out of a `use` group.
pub struct NamePath {
    pub names: Vec<String>,
    pub line: usize,
    pub in_tests: bool,
}

impl NamePath {
    /// Whether this names `prefix` or something in it. One name alone may be a variable.
    pub fn begins_in(&self, prefix: &str) -> bool {
        let mut names = self.names.iter();
        self.names.len() > 1
            && prefix.split("::").all(|name| names.next().is_some_and(|mine| mine == name))
    }
}

impl Source {
    pub fn new(path: &str, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { path: path.to_owned(), tokens: tokens(&text), text, only_tests: false }
    }

    /// The top-level module this file is part of; `None` outside the library and at its root.
    pub fn module(&self) -> Option<String> {
        let module = self.path.strip_prefix("src/")?.split('/').next()?;
        let name = module.strip_suffix(".rs").unwrap_or(module);
        (!matches!(name, "lib" | "main" | "bin")).then(|| name.to_owned())
    }

    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.path.split('/').map(|name| name.strip_suffix(".rs").unwrap_or(name))
    }

    /// Whether cargo itself knows this file.
    pub fn is_root(&self) -> bool {
        let names: Vec<_> = self.path.split('/').collect();
        match names[..] {
            ["src", "lib.rs" | "main.rs"] | ["src", "bin", _] => true,
            ["tests" | "benches" | "examples", _]
            | ["tests" | "benches" | "examples", _, "main.rs"] => true,
            ["tests", "fuzz", "fuzz_targets", name] => {
                let manifest = fs::read_to_string(root().join("tests/fuzz/Cargo.toml"));
                let manifest = manifest.unwrap_or_default();
                manifest
                    .lines()
                    .filter_map(fuzz_target)
                    .any(|target| format!("{target}.rs") == name)
            }
            _ => false,
        }
    }

    /// Files that this one's `mod` lines and `include!`s may mean.
    pub fn children(&self) -> Vec<Child> {
        let (directory, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let stem = file.strip_suffix(".rs").unwrap_or(file);
        let is_top = self.is_root() || stem == "mod";
        let below = if is_top { directory.to_owned() } else { format!("{directory}/{stem}") };
        let tests = self.test_tokens();
        let mut children = Vec::new();
        let mut attribute = None;
        for (index, in_tests) in tests.into_iter().enumerate().take(self.tokens.len()) {
            let kinds: Vec<_> = self.tokens[index..].iter().take(4).map(|it| &it.kind).collect();
            match kinds[..] {
                [Kind::Name(path), Kind::Mark('='), Kind::Text(file), Kind::Mark(']')]
                    if path == "path" =>
                {
                    attribute = Some(format!("{directory}/{file}"));
                }
                [Kind::Name(word), Kind::Name(name), Kind::Mark(';'), ..] if word == "mod" => {
                    let paths = match attribute.take() {
                        Some(path) => vec![path],
                        None => {
                            vec![format!("{below}/{name}.rs"), format!("{below}/{name}/mod.rs")]
                        }
                    };
                    children.extend(paths.into_iter().map(|path| Child { path, in_tests }));
                }
                [Kind::Name(word), Kind::Mark('!'), Kind::Mark('('), Kind::Text(file)]
                    if word == "include" =>
                {
                    let path = format!("{directory}/{file}");
                    children.push(Child { path, in_tests });
                }
                _ => {}
            }
        }
        children
    }

    /// Paths into this crate from outside of tests, without their `crate` or `stentor`.
    pub fn crate_paths(&self) -> Vec<NamePath> {
        let depth = self.path.split('/').count() - 1;
        let mut paths = self.paths();
        paths.retain_mut(|path| {
            let supers = path.names.iter().take_while(|name| *name == "super").count();
            let skip = match path.names[0].as_str() {
                "crate" | "stentor" => 1,
                "super" if supers >= depth => supers,
                _ => return false,
            };
            path.names.drain(..skip);
            !path.in_tests && !path.names.is_empty()
        });
        paths
    }

    pub fn paths(&self) -> Vec<NamePath> {
        let tests = self.test_tokens();
        let mut paths = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            if matches!(self.tokens[at].kind, Kind::Name(_)) {
                at = self.path_at(at, &mut Vec::new(), &tests, &mut paths);
            } else {
                at += 1;
            }
        }
        paths
    }

    /// Reads one path that begins at token `at`, below `prefix`; returns where it ends.
    fn path_at(
        &self,
        mut at: usize,
        prefix: &mut Vec<String>,
        tests: &[bool],
        into: &mut Vec<NamePath>,
    ) -> usize {
        let (depth, first) = (prefix.len(), at);
        let kind = |at: usize| self.tokens.get(at).map(|token| &token.kind);
        loop {
            match kind(at) {
                Some(Kind::Name(name)) => prefix.push(name.clone()),
                Some(Kind::Mark('{')) if at > first => {
                    at += 1;
                    while at < self.tokens.len() && kind(at) != Some(&Kind::Mark('}')) {
                        at = match kind(at) {
                            Some(Kind::Name(_)) => self.path_at(at, prefix, tests, into),
                            _ => at + 1,
                        };
                    }
                    prefix.truncate(depth);
                    return at + 1;
                }
                // `::*`, `::<…>`: the path so far counts.
                _ => break,
            }
            at += 1;
            if kind(at) != Some(&Kind::Mark(':')) || kind(at + 1) != Some(&Kind::Mark(':')) {
                break;
            }
            at += 2;
        }
        let names = prefix.clone();
        into.push(NamePath { names, line: self.tokens[first].line, in_tests: tests[first] });
        prefix.truncate(depth);
        at
    }

    /// For each token, whether it is compiled for tests only.
    fn test_tokens(&self) -> Vec<bool> {
        let mut inside = vec![self.only_tests; self.tokens.len()];
        let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
        for start in 0..self.tokens.len() {
            let here = &self.tokens[start..];
            if here.len() < mark.len() || !here.iter().zip(mark).all(|(it, word)| it.is(word)) {
                continue;
            }
            let mut depth = 0_usize;
            for (token, inside) in here.iter().zip(&mut inside[start..]).skip(mark.len()) {
                *inside = true;
                match token.kind {
                    Kind::Mark('{') => depth += 1,
                    Kind::Mark('}') if depth <= 1 => break,
                    Kind::Mark('}') => depth -= 1,
                    Kind::Mark(';') if depth == 0 => break,
                    _ => {}
                }
            }
        }
        inside
    }
}

/// A piece of Rust and the line it begins on.
pub struct Token {
    pub kind: Kind,
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// An identifier, keyword or number.
    Name(String),
    /// A string literal without its quotes, escapes as written.
    Text(String),
    /// Any other character.
    Mark(char),
}

impl Token {
    fn is(&self, word: &str) -> bool {
        match &self.kind {
            Kind::Name(name) => name == word,
            Kind::Mark(mark) => word.chars().eq([*mark]),
            Kind::Text(_) => false,
        }
    }
}

/// Cuts Rust into tokens; comments, character literals and lifetimes leave none.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (kind, length) = if rest.starts_with("//") {
            (None, rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            (None, block_comment(rest))
        } else if let Some((text, length)) = string(rest) {
            (Some(Kind::Text(text.to_owned())), length)
        } else if first == '\'' {
            (None, character_or_lifetime(rest))
        } else if first == '_' || first.is_alphanumeric() {
            let length = name(rest);
            (Some(Kind::Name(rest[..length].to_owned())), length)
        } else if first.is_whitespace() {
            (None, first.len_utf8())
        } else {
            (Some(Kind::Mark(first)), first.len_utf8())
        };
        tokens.extend(kind.map(|kind| Token { kind, line }));
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// Bytes of the name at the start of `text`.
fn name(text: &str) -> usize {
    text.find(|letter: char| letter != '_' && !letter.is_alphanumeric()).unwrap_or(text.len())
}

/// Bytes of the block comment at the start of `text`; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let here = &text.as_bytes()[at..];
        if here.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Contents and bytes of the string literal at the start of `text`, plain, raw, byte or C.
fn string(text: &str) -> Option<(&str, usize)> {
    let prefix = text.find(|letter| !matches!(letter, 'b' | 'c' | 'r'))?;
    if prefix > 2 {
        return None;
    }
    let after = &text[prefix..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let start = prefix + hashes + 1;
    let raw = text[..prefix].contains('r');
    if !raw && hashes > 0 {
        return None;
    }
    let length = if raw {
        body.find(&format!("\"{}", "#".repeat(hashes)))?
    } else {
        let mut escaped = false;
        body.find(|letter| {
            let end = letter == '"' && !escaped;
            escaped = letter == '\\' && !escaped;
            end
        })?
    };
    Some((&body[..length], start + length + 1 + hashes))
}

/// Bytes of the character literal or lifetime at the start of `text`.
fn character_or_lifetime(text: &str) -> usize {
    let mut letters = text.char_indices().skip(1);
    match (letters.next(), letters.next()) {
        (Some((_, '\\')), Some((escaped, letter))) => {
            let after = escaped + letter.len_utf8();
            text[after..].find('\'').map_or(text.len(), |end| after + end + 1)
        }
        (Some(_), Some((end, '\''))) => end + 1,
        _ => 1 + name(&text[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let names = tokens(text).into_iter().filter_map(|token| match token.kind {
            Kind::Name(name) => Some(name),
            _ => None,
        });
        names.collect()
    }

    #[test]
    fn comments_strings_and_characters_hide_what_is_in_them() {
        assert_eq!(names("a // b\n c /* d /* e */ f */ g"), ["a", "c", "g"]);
        assert_eq!(names(r##"a "b \" c" d r#"e " f"# g b"h" i"##), ["a", "d", "g", "i"]);
        assert_eq!(names(r"a 'b' '\'' '\u{7f}' c<'d> e"), ["a", "c", "e"]);
        assert_eq!(names("r#type br b'x' c"), ["r", "type", "br", "b", "c"]);
    }

    #[test]
    fn tokens_know_their_line() {
        let text = "a\n/* \n */ b \"\n\" c";
        let lines: Vec<_> = tokens(text).iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 3, 3, 4]);
    }

    #[test]
    fn groups_are_written_out() {
        let source = Source::new("src/a.rs", "use a::{b, c::{self, d}, e as f}; g::<H>(i); j::*;");
        let paths: Vec<_> = source.paths().iter().map(|path| path.names.join("::")).collect();
        for path in ["a::b", "a::c::self", "a::c::d", "a::e", "g", "j"] {
            assert!(paths.iter().any(|found| found == path), "{path} in {paths:?}");
        }
    }
}
