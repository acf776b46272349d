//! The date, for templates that state it.

use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The present time in UTC by a `strftime` format.
pub(super) fn now(format: &str) -> String {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    at(since_epoch.as_secs(), format)
}

/// The time `seconds` after the epoch. Codes that are not known stay as they are.
fn at(seconds: u64, format: &str) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (year, month, day, day_of_year) = date(days);
    let (name_of_day, name_of_month) = (DAYS[days as usize % 7], MONTHS[month]);

    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut code = chars.next().unwrap_or('%');
        let padded = code != '-';
        if !padded {
            code = chars.next().unwrap_or('-');
        }
        let number = |value: u64| if padded { format!("{value:02}") } else { value.to_string() };
        text += &match code {
            'Y' => year.to_string(),
            'y' => number(year % 100),
            'm' => number(month as u64 + 1),
            'd' => number(day),
            'e' => format!("{day:2}"),
            'j' if padded => format!("{day_of_year:03}"),
            'j' => day_of_year.to_string(),
            'H' => number(hour),
            'I' => number((hour + 11) % 12 + 1),
            'M' => number(minute),
            'S' => number(second),
            'p' => if hour < 12 { "AM" } else { "PM" }.into(),
            'A' => name_of_day.into(),
            'a' => name_of_day[..3].into(),
            'B' => name_of_month.into(),
            'b' | 'h' => name_of_month[..3].into(),
            'F' => format!("{year}-{:02}-{day:02}", month + 1),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'Z' => "UTC".into(),
            'z' => "+0000".into(),
            '%' => "%".into(),
            other => format!("%{other}"),
        };
    }
    text
}

/// Year, month from 0, day from 1 and day of the year from 1.
fn date(mut days: u64) -> (u64, usize, u64, u64) {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let day_of_year = days + 1;
    let february = 28 + u64::from(is_leap(year));
    let mut month = 0;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1, day_of_year)
}

#[cfg(test)]
mod tests {
    use super::at;

    #[test]
    fn formats() {
        assert_eq!(at(0, "%A %d %B %Y %H:%M:%S %j"), "Thursday 01 January 1970 00:00:00 001");
        assert_eq!(at(1_709_210_096, "%d %b %Y, %-d.%-m., %a %I%p"), "29 Feb 2024, 29.2., Thu 12PM");
        assert_eq!(at(4_107_542_399, "%F %T %% %q %"), "2100-02-28 23:59:59 % %q %");
    }
}
