package awsaccount

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// clockOff is by how much the clock of a worker may differ from AWS's. An interrupted mint is told from somebody else's by the
// minute that its call may take, and AWS signs and reports by its own clock.
const clockOff = time.Minute

// clockError says that the worker's clock is not that of AWS. It is passing trouble: another worker's may be right, or this one's
// by the next attempt.
type clockError struct{ ahead time.Duration }

func (e *clockError) Error() string {
	where := "ahead of"
	if e.ahead < 0 {
		where = "behind"
	}
	return fmt.Sprintf("the clock of this worker is %s %s AWS's: set it right, or let another worker go on", e.ahead.Abs().Round(time.Second), where)
}

// looks are operations that change nothing.
var looks = regexp.MustCompile(`^(Describe|Get|List|Lookup|Simulate)`)

// refuseSkew refuses replies whose Date is too far from this machine's clock. The SDK would sign by AWS's clock then, and go on.
// What has taken effect is answered all the same, since a new key would be lost with its reply: the next look is refused.
func refuseSkew(stack *middleware.Stack) error {
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("keyturn:RefuseSkew",
		func(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
			sent := time.Now()
			out, metadata, err := next.HandleDeserialize(ctx, in)
			received := time.Now()
			reply, ok := out.RawResponse.(*smithyhttp.Response)
			if err != nil || !ok || reply.StatusCode/100 == 2 && !looks.MatchString(awsmiddleware.GetOperationName(ctx)) {
				return out, metadata, err
			}
			date, unreadable := http.ParseTime(reply.Header.Get("Date"))
			if unreadable != nil {
				return out, metadata, nil
			}
			if off := ahead(sent, received, date); off.Abs() > clockOff {
				err = &clockError{off}
			}
			return out, metadata, err
		}), middleware.After)
}

// ahead is by how much, at least, the clock is ahead of one that read date, to the second, between sending and receiving; less than zero
// when it is behind.
func ahead(sent, received, date time.Time) time.Duration {
	switch {
	case sent.After(date.Add(time.Second)):
		return sent.Sub(date.Add(time.Second))
	case received.Before(date):
		return received.Sub(date)
	}
	return 0
}
