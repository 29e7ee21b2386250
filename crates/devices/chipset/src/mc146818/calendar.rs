//! The Gregorian calendar, between seconds since 1970 and the fields of the clock.

/// A date and a time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    pub second: u32,
    pub minute: u32,
    pub hour: u32,
    /// 1 (Sunday) to 7.
    pub weekday: u32,
    /// 1 to 31.
    pub day: u32,
    /// 1 to 12.
    pub month: u32,
    pub year: i64,
}

const DAY: i64 = 86_400;

/// Days from 1970-01-01 to the first of March of year `year` (the year begins in March, so that the leap day is last).
fn days_to_march(year: i64) -> i64 {
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) - 719_468
}

/// Days from the first of March to the first of the month `index` months later.
fn days_before_month(index: i64) -> i64 {
    (153 * index + 2) / 5
}

impl Date {
    /// The date of a second since 1970-01-01.
    pub fn from_seconds(seconds: i64) -> Self {
        let (days, of_day) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY) as u32);
        // An estimate from the mean year, at most one off.
        let mut year =
            (days + 719_468).div_euclid(146_097) * 400 + (days + 719_468).rem_euclid(146_097) * 400 / 146_097;
        if days_to_march(year) > days {
            year -= 1;
        } else if days_to_march(year + 1) <= days {
            year += 1;
        }
        let of_year = days - days_to_march(year);
        let index = (5 * of_year + 2) / 153;
        let day = of_year - days_before_month(index) + 1;
        Self {
            second: of_day % 60,
            minute: of_day / 60 % 60,
            hour: of_day / 3600,
            weekday: (days + 4).rem_euclid(7) as u32 + 1,
            day: day as u32,
            month: ((index + 2) % 12 + 1) as u32,
            year: year + i64::from(index >= 10),
        }
    }

    /// The second since 1970-01-01. Fields out of their range carry over, as in a clock that was set badly.
    pub fn to_seconds(self) -> i64 {
        let index = i64::from(self.month.max(1) - 1) + 10;
        let year = self.year - 1 + index.div_euclid(12);
        let days = days_to_march(year) + days_before_month(index.rem_euclid(12)) + i64::from(self.day) - 1;
        days * DAY + i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates_convert_both_ways() {
        let cases = [
            (0, (1970, 1, 1, 5)),
            (951_782_400, (2000, 2, 29, 3)),
            (1_709_164_800, (2024, 2, 29, 5)),
            (4_107_542_400, (2100, 3, 1, 2)),
            (-1, (1969, 12, 31, 4)),
        ];
        for (seconds, (year, month, day, weekday)) in cases {
            let date = Date::from_seconds(seconds);
            assert_eq!((date.year, date.month, date.day, date.weekday), (year, month, day, weekday), "{seconds}");
            assert_eq!(date.to_seconds(), seconds);
        }
    }

    #[test]
    fn every_day_of_five_centuries_survives() {
        let mut previous = Date::from_seconds(-100 * 366 * DAY - DAY);
        for day in -100 * 366..400 * 366 {
            let date = Date::from_seconds(day * DAY + 3661);
            assert_eq!(date.to_seconds(), day * DAY + 3661);
            assert!((date.year, date.month, date.day) > (previous.year, previous.month, previous.day));
            previous = date;
        }
    }
}
