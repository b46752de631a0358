package awsaccount

import (
	"context"
	"fmt"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/time/rate"

	"github.com/keyturn/keyturn/providers"
)

// errQuota: the caller has less time than the quota makes it wait.
var errQuota = fmt.Errorf("%w: the account's quota in the worker configuration lets no call through in time: raise it, or wait", providers.ErrThrottled)

// Pace implements providers.Paced.
func (a *Account) Pace(perSecond float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.quota = rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond))) // at once, what a second may have
	a.loaded = nil
}

// pace lets each attempt of a call that only looks wait for its turn, before it is signed: an attempt of the SDK's own counts like any other.
func pace(quota *rate.Limiter) func(*middleware.Stack) error {
	return func(stack *middleware.Stack) error {
		return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("keyturn:Pace",
			func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (out middleware.FinalizeOutput, metadata middleware.Metadata, err error) {
				if !looks.MatchString(awsmiddleware.GetOperationName(ctx)) {
					quota.Reserve() // it counts, and waits for nobody: between the judgement and its effect no time passes
					return next.HandleFinalize(ctx, in)
				}
				switch err := quota.Wait(ctx); {
				case ctx.Err() != nil:
					return out, metadata, ctx.Err()
				case err != nil:
					return out, metadata, errQuota
				}
				return next.HandleFinalize(ctx, in)
			}), "Retry", middleware.After)
	}
}
