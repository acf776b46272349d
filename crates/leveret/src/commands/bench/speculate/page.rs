//! The report as one page: plots inline, nothing fetched, light or dark as the reader has it.

use std::fmt::Write;

use leveret_spec::Stats;

use super::report::{Report, Row, label, parked_share, shares};
use crate::plot::{self, Bars, Curve, Stack, escape};

const STYLE: &str = "
:root{--paper:#fff;--page:#f4f5f7;--ink:#1d2330;--soft:#5d6675;--grid:#e2e5ea}
@media(prefers-color-scheme:dark){:root{--paper:#1b1f27;--page:#12151b;--ink:#e6e9ef;--soft:#9aa4b5;--grid:#343b48}}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1000px;margin:0 auto;padding:2rem 1rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{color:var(--soft);margin:.3rem 0}
section{background:var(--paper);border-radius:10px;padding:1rem 1.2rem;margin:1rem 0;overflow-x:auto}
.tiles{display:flex;flex-wrap:wrap;gap:1rem}.tiles div{background:var(--paper);border-radius:10px;padding:1rem 1.4rem}
.tiles b{display:block;font-size:1.7rem}.tiles span{color:var(--soft);font-size:.9rem}
svg{width:100%;height:auto;display:block}
svg .paper{fill:var(--paper)}svg .ink{fill:var(--ink)}svg .grid{stroke:var(--grid)}svg .stroke{stroke:var(--ink)}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.25rem .6rem;border-bottom:1px solid var(--grid)}th:first-child,td:first-child{text-align:left}
.bad{color:#d33;font-weight:bold}
";

/// The page.
pub(super) fn page(report: &Report<'_>, rows: &[Row<'_>]) -> String {
    let title = format!("{}: what speculation gains", escape(&report.model));
    let mut body = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        body,
        "<h1>{title}</h1>\n<p>{} threads, {}; up to {} tokens a turn, the fastest of {}; leveret {}</p>\n",
        report.threads,
        escape(&report.cpu),
        report.max_tokens,
        report.rounds,
        env!("CARGO_PKG_VERSION")
    );
    body += &tiles(report, rows);
    let sections = [
        (
            speedups(report, rows),
            "Time per token, plain decoding over speculation, the same prompts in turns; whiskers hold \
          95% of it when prompts are drawn anew. Above the dashed line guessing pays.",
        ),
        (
            acceptance(rows),
            "Of the rounds whose draft goes so deep, the share in which that guess is kept. All prompts.",
        ),
        (
            time(rows),
            "Where the time of a round goes. Verify is the target's pass, which plain decoding has too. All prompts.",
        ),
        (curve(report), "What a pass over more rows takes. The flatter, the cheaper is a guess."),
    ];
    for (plot, note) in sections {
        let _ = writeln!(body, "<section>{plot}<p>{note}</p></section>");
    }
    if rows.iter().any(|row| row.setup.swept) {
        let _ = writeln!(
            body,
            "<section>{}<p>The same drafter with fixed settings. All prompts.</p></section>",
            sweep(rows)
        );
    }
    for row in rows.iter().filter(|row| !row.setup.swept) {
        let _ = writeln!(body, "<h2>{}</h2>\n<section>{}</section>", escape(&label(row.setup)), table(row));
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>{STYLE}</style></head>\n<body><main>\n{body}</main></body>\n</html>\n"
    )
}

fn tiles(report: &Report<'_>, rows: &[Row<'_>]) -> String {
    let mut tiles = String::from("<div class=\"tiles\">");
    for (temperature, tps) in report.baselines(rows) {
        tiles +=
            &format!("<div><b>{tps:.1}</b><span>tokens/s, plain at temperature {temperature}</span></div>");
    }
    for row in rows.iter().filter(|row| !row.setup.swept) {
        let all = &row.summaries[0];
        tiles += &format!(
            "<div><b>{:.2}x</b><span>{}: {:.1} tokens/s, {:.2} tokens a round</span></div>",
            all.speedup,
            escape(&label(row.setup)),
            all.stats.tokens_per_second(),
            all.stats.tau()
        );
    }
    let kept = rows
        .iter()
        .filter(|row| row.setup.keeps_texts())
        .flat_map(|row| &row.summaries)
        .all(|s| s.texts_equal);
    tiles += match kept {
        true => "<div><b>equal</b><span>every text is that of plain decoding</span></div>",
        false => "<div><b class=\"bad\">differ</b><span>texts are not those of plain decoding</span></div>",
    };
    tiles + "</div>\n"
}

/// Speed-up by category, with intervals.
pub(super) fn speedups(report: &Report<'_>, rows: &[Row<'_>]) -> String {
    let shown: Vec<&Row<'_>> = rows.iter().filter(|row| !row.setup.swept).collect();
    let series: Vec<String> = shown.iter().map(|row| label(row.setup)).collect();
    let categories =
        shown.first().map_or(&[][..], |row| &row.summaries[..]).iter().map(|s| s.category.as_str());
    let bars: Vec<Bars> = categories
        .map(|category| Bars {
            label: category.to_owned(),
            values: shown
                .iter()
                .map(|row| {
                    row.summaries.iter().find(|s| s.category == category).map(|s| (s.speedup, s.interval))
                })
                .collect(),
        })
        .collect();
    let title = format!("{}: speed-up over plain decoding", report.model);
    plot::bars(&title, "times as fast", &series, &bars, 1.0)
}

fn acceptance(rows: &[Row<'_>]) -> String {
    let curves: Vec<Curve> = rows
        .iter()
        .filter(|row| !row.setup.swept)
        .map(|row| Curve { label: label(row.setup), points: reached(&row.summaries[0].stats) })
        .collect();
    plot::lines("Acceptance by depth", "depth of the guess", "share kept", &curves)
}

/// Acceptance by depth, down to where too few rounds came for a share to mean something.
fn reached(stats: &Stats) -> Vec<(f64, f64)> {
    const FEWEST: usize = 5;
    let shares = (1..).map(f64::from).zip(stats.acceptance_by_depth()).zip(&stats.depth_drafted);
    shares.take_while(|(_, rounds)| **rounds >= FEWEST).map(|(point, _)| point).collect()
}

fn time(rows: &[Row<'_>]) -> String {
    let shown = || rows.iter().filter(|row| !row.setup.swept);
    let names = shares(&Default::default()).map(|(name, _)| name);
    let stacks: Vec<Stack> = shown()
        .map(|row| Stack {
            label: label(row.setup),
            parts: shares(&row.summaries[0].stats.seconds).map(|(_, share)| share).to_vec(),
        })
        .collect();
    plot::stacks("Time of a round", &names, &stacks)
}

fn curve(report: &Report<'_>) -> String {
    let points = report.curve.iter().map(|(&rows, &seconds)| (rows as f64, seconds * 1e3)).collect();
    let curve = Curve { label: format!("{} threads", report.threads), points };
    plot::lines("Cost of a pass", "rows in the pass", "milliseconds", &[curve])
}

fn sweep(rows: &[Row<'_>]) -> String {
    let bars: Vec<Bars> = rows
        .iter()
        .map(|row| Bars {
            label: label(row.setup),
            values: vec![Some((row.summaries[0].speedup, row.summaries[0].interval))],
        })
        .collect();
    plot::bars(
        "Control beside fixed settings",
        "times as fast as plain decoding",
        &["all prompts".into()],
        &bars,
        1.0,
    )
}

fn table(row: &Row<'_>) -> String {
    let mut text = String::from(
        "<table><tr><th>category<th>prompts<th>tokens/s<th>speed-up<th>interval<th>tokens a round<th>accepted\
         <th>parked<th>worst prompt's time<th>best fixed<th>lost to it<th>texts</tr>\n",
    );
    for (summary, regret) in row.summaries.iter().zip(&row.regrets) {
        let (best, lost) = regret.as_ref().map_or((String::new(), String::new()), |(name, share)| {
            (name.clone(), format!("{:.1}%", share * 100.0))
        });
        let texts = match summary.texts_equal {
            true => "equal",
            false if row.setup.keeps_texts() => "<span class=\"bad\">differ</span>",
            false => "other",
        };
        let _ = writeln!(
            text,
            "<tr><td>{}<td>{}<td>{:.1}<td>{:.2}x<td>{:.2} to {:.2}<td>{:.2}<td>{:.0}%<td>{:.0}%<td>{:.2}<td>{best}<td>{lost}<td>{texts}</tr>",
            escape(&summary.category),
            summary.prompts,
            summary.stats.tokens_per_second(),
            summary.speedup,
            summary.interval[0],
            summary.interval[1],
            summary.stats.tau(),
            summary.stats.acceptance() * 100.0,
            parked_share(&summary.stats) * 100.0,
            summary.worst
        );
    }
    text + "</table>"
}
