#include "store/base/utc.h"

#include "store/base/err.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define US_PER_S  1000000
#define S_PER_DAY 86400

int64_t
utc_now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * US_PER_S + ts.tv_nsec / 1000;
}

/* Division that rounds down, so that moments before 1970 work like those after. */
static int64_t
floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

/*
 * Days from 1970-01-01 to a date of the Gregorian calendar.  Years are counted from March, so that
 * the leap day is the last of its year, in cycles of 400 years, which have 146097 days.
 */
static int64_t
days_of_date(int64_t year, int64_t month, int64_t day)
{
	int64_t y = month > 2 ? year : year - 1;
	int64_t cycle = floor_div(y, 400);
	int64_t in_cycle = y - cycle * 400;
	int64_t in_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;

	return cycle * 146097 + in_cycle * 365 + in_cycle / 4 - in_cycle / 100 + in_year - 719468;
}

/* The inverse of days_of_date(). */
static void
date_of_days(int64_t days, int64_t *year, int64_t *month, int64_t *day)
{
	int64_t z = days + 719468;
	int64_t cycle = floor_div(z, 146097);
	int64_t d = z - cycle * 146097;
	int64_t y = (d - d / 1460 + d / 36524 - d / 146096) / 365;
	int64_t in_year = d - (365 * y + y / 4 - y / 100);
	int64_t m = (5 * in_year + 2) / 153;

	*day = in_year - (153 * m + 2) / 5 + 1;
	*month = m < 10 ? m + 3 : m - 9;
	*year = cycle * 400 + y + (*month <= 2);
}

void
utc_format(int64_t us, char out[UTC_TEXT_MAX])
{
	int64_t s = floor_div(us, US_PER_S);
	int64_t fraction = us - s * US_PER_S;
	int64_t days = floor_div(s, S_PER_DAY);
	int64_t in_day = s - days * S_PER_DAY;
	int64_t year, month, day;
	int len;

	date_of_days(days, &year, &month, &day);
	if (year < 1 || year > 9999) {
		snprintf(out, UTC_TEXT_MAX, "invalid-time");
		return;
	}
	len = snprintf(out, UTC_TEXT_MAX, "%04d-%02d-%02dT%02d:%02d:%02d", (int)year, (int)month,
	    (int)day, (int)(in_day / 3600), (int)(in_day / 60 % 60), (int)(in_day % 60));
	if (fraction) {
		len += snprintf(out + len, UTC_TEXT_MAX - (size_t)len, ".%06d", (int)fraction);
		while (out[len - 1] == '0')
			len--;
	}
	out[len] = 'Z';
	out[len + 1] = '\0';
}

/* Read exactly `n` digits. */
static bool
digits(const char **p, int n, int *value)
{
	*value = 0;
	for (int i = 0; i < n; i++, (*p)++) {
		if (**p < '0' || **p > '9')
			return false;
		*value = *value * 10 + (**p - '0');
	}
	return true;
}

static bool
literal(const char **p, char c)
{
	if (**p != c)
		return false;
	(*p)++;
	return true;
}

static int
days_in_month(int year, int month)
{
	static const int days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

	return month == 2 && leap ? 29 : days[month - 1];
}

/* "2026-11-20" and a separator as days since 1970. */
static bool
parse_date(const char **p, int64_t *days)
{
	int year, month, day;

	if (!digits(p, 4, &year) || !literal(p, '-') || !digits(p, 2, &month) || !literal(p, '-') ||
	    !digits(p, 2, &day))
		return false;
	if (year < 1 || month < 1 || month > 12 || day < 1 || day > days_in_month(year, month))
		return false;
	*days = days_of_date(year, month, day);
	return true;
}

/* "14:03:22.5" as microseconds of the day.  A leap second is the first of the next minute. */
static bool
parse_clock(const char **p, int64_t *us)
{
	int hour, minute, second;
	int64_t unit = US_PER_S;

	if (!digits(p, 2, &hour) || !literal(p, ':') || !digits(p, 2, &minute) ||
	    !literal(p, ':') || !digits(p, 2, &second))
		return false;
	if (hour > 23 || minute > 59 || second > 60)
		return false;
	*us = ((int64_t)hour * 3600 + minute * 60 + second) * US_PER_S;
	if (!literal(p, '.'))
		return true;
	if (**p < '0' || **p > '9')
		return false;
	for (; **p >= '0' && **p <= '9'; (*p)++) {
		unit /= 10;
		*us += (**p - '0') * unit;
	}
	return true;
}

/* What follows '+' or '-': "02:00", and PostgreSQL's own short forms "0200" and "02". */
static bool
parse_offset(const char **p, int32_t *seconds)
{
	int hour, minute = 0;

	if (!digits(p, 2, &hour))
		return false;
	if (**p != '\0') {
		(void)literal(p, ':');
		if (!digits(p, 2, &minute))
			return false;
	}
	if (hour > 23 || minute > 59)
		return false;
	*seconds = hour * 3600 + minute * 60;
	return true;
}

int
utc_parse(const char *text, int32_t default_offset_s, int64_t *us)
{
	const char *p = text;
	int64_t days, clock;
	int32_t offset = default_offset_s;
	char sign;

	if (!parse_date(&p, &days) || (*p != 'T' && *p != 't' && *p != ' '))
		goto malformed;
	p++;
	if (!parse_clock(&p, &clock))
		goto malformed;
	sign = *p;
	if (sign == 'Z' || sign == 'z') {
		offset = 0;
		p++;
	} else if (sign == '+' || sign == '-') {
		p++;
		if (!parse_offset(&p, &offset))
			goto malformed;
		if (sign == '-')
			offset = -offset;
	}
	if (*p != '\0')
		goto malformed;
	if (offset == UTC_NO_OFFSET)
		return err_set(ERR_USAGE,
		    "the time \"%s\" has no zone: end it with Z for UTC or with an offset such as "
		    "+02:00",
		    text);
	*us = days * S_PER_DAY * US_PER_S + clock - (int64_t)offset * US_PER_S;
	return 0;
malformed:
	return err_set(
	    ERR_USAGE, "\"%s\" is not a time: write it like 2026-11-20T14:03:22.5Z", text);
}
