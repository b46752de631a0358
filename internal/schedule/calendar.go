package schedule

import (
	"slices"
	"time"

	schedulepb "go.temporal.io/api/schedule/v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/keyturn/keyturn/internal/inventory"
)

// when is the Schedule's specification: each window of the credential, or its own moments where it has none,
// beginning with the first after the rotation is due. So the next run follows from the rotate-by alone, and
// one that did not succeed is tried again in each window until one does.
func when(c inventory.Credential, s inventory.State) *schedulepb.ScheduleSpec {
	spec := &schedulepb.ScheduleSpec{
		TimezoneName:              c.Schedule.TimeZone,
		ExcludeStructuredCalendar: excluded(c.Schedule),
	}
	if c.Schedule.Jitter > 0 {
		spec.Jitter = durationpb.New(c.Schedule.Jitter.Std())
	}
	if due := c.Due(s.RotateBy, s.KeyExpires); !due.IsZero() {
		spec.StartTime = timestamppb.New(due)
	}
	if c.Schedule.At == "" {
		spec.Interval = []*schedulepb.IntervalSpec{{Interval: durationpb.New(c.CheckEvery()), Phase: durationpb.New(c.Offset())}}
		return spec
	}
	at, _ := time.Parse("15:04", c.Schedule.At) // validation saw to the form
	opening := &schedulepb.StructuredCalendarSpec{
		Second: only(0), Minute: only(at.Minute()), Hour: only(at.Hour()), DayOfMonth: span(1, 31), Month: span(1, 12),
		Comment: "the window opens",
	}
	for n, d := range inventory.Days {
		if len(c.Schedule.Days) == 0 || slices.Contains(c.Schedule.Days, d) {
			opening.DayOfWeek = append(opening.DayOfWeek, only(n)...)
		}
	}
	spec.StructuredCalendar = []*schedulepb.StructuredCalendarSpec{opening}
	return spec
}

func only(n int) []*schedulepb.Range { return span(n, n) }

func span(from, to int) []*schedulepb.Range {
	return []*schedulepb.Range{{Start: int32(from), End: int32(to), Step: 1}} //nolint:gosec // days, months and years
}

// excluded are the days on which the Schedule does not fire since they lie in a blackout whole, or with the
// moment at which the window opens. Of other days the rotation itself keeps the rest.
func excluded(s inventory.Schedule) []*schedulepb.StructuredCalendarSpec {
	var list []*schedulepb.StructuredCalendarSpec
	for _, b := range s.Blackouts {
		days, yearly := s.DaysOff(b)
		for i := 0; i < len(days); {
			first, last := days[i], i
			for last+1 < len(days) && days[last+1].Month() == first.Month() && days[last+1].Day() == days[last].Day()+1 {
				last++
			}
			e := &schedulepb.StructuredCalendarSpec{
				Second: span(0, 59), Minute: span(0, 59), Hour: span(0, 23),
				DayOfMonth: span(first.Day(), days[last].Day()), Month: only(int(first.Month())), DayOfWeek: span(0, 6),
				Comment: "blackout",
			}
			if !yearly {
				e.Year = only(first.Year())
			}
			list = append(list, e)
			i = last + 1
		}
	}
	return list
}
