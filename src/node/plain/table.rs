//! Reading the tables that ctr prints.

use crate::node::session::Labels;

/// Reads rows whose columns begin where their titles do.
pub(super) fn columns<const N: usize>(text: &str, titles: [&str; N]) -> Vec<[String; N]> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let starts = titles.map(|title| header.find(title).unwrap_or(header.len()));
    lines
        .map(|line| {
            let mut next = starts.iter().skip(1).copied();
            starts.map(|start| {
                let end = next.next().unwrap_or(line.len()).min(line.len());
                let cell = line.get(start.min(end)..end).unwrap_or_default();
                cell.trim().to_owned()
            })
        })
        .collect()
}

/// Reads rows whose cells are separated by tabs.
pub(super) fn tabbed(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = text.lines().skip(1);
    rows.map(|row| row.split('\t').filter(|cell| !cell.is_empty()).collect())
}

/// Reads `key=value,key=value`. A value may have commas of its own, if no `=` follows them.
pub(super) fn labels(text: &str) -> Labels {
    let mut labels: Vec<(String, String)> = Vec::new();
    for part in text.split(',') {
        match (part.split_once('='), labels.last_mut()) {
            (Some((key, value)), _) => labels.push((key.to_owned(), value.to_owned())),
            (None, Some((_, value))) => {
                value.push(',');
                value.push_str(part);
            }
            (None, None) => {}
        }
    }
    labels.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_cut_where_the_titles_are() {
        let table = "REF  TYPE  DIGEST SIZE    PLATFORMS   LABELS \n\
                     a:1  x/y   sha:1  1.2 MiB linux/amd64 a=b,c=d \n\
                     bb:1 x/y   sha:2  5 B     -           -       \n";
        let rows = columns(table, ["REF", "TYPE", "DIGEST", "SIZE", "LABELS"]);
        assert_eq!(
            rows[0],
            ["a:1", "x/y", "sha:1", "1.2 MiB linux/amd64", "a=b,c=d"]
        );
        assert_eq!(rows[1], ["bb:1", "x/y", "sha:2", "5 B     -", "-"]);
        assert!(columns("", ["REF", "TYPE"]).is_empty());
    }

    #[test]
    fn tabs_separate_cells() {
        let table = "DIGEST\t\tSIZE\tAGE\t\tLABELS\nsha:1\t\t5B\t3 minutes\ta=b\n";
        assert_eq!(
            tabbed(table).collect::<Vec<_>>(),
            [["sha:1", "5B", "3 minutes", "a=b"]]
        );
    }

    #[test]
    fn values_may_have_commas() {
        let read = labels("a=b,x.docker.io=library/a,library/b,c=d=e");
        assert_eq!(read["a"], "b");
        assert_eq!(read["x.docker.io"], "library/a,library/b");
        assert_eq!(read["c"], "d=e");
        assert!(labels("-").is_empty());
    }
}
