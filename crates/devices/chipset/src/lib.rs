//! PICs, PIT, APICs, RTC, i8042, power management.
