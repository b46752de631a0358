// Package awsaccount is what the AWS providers have in common: how an account is reached, by the SDK's
// standard environment and nothing else, and what AWS's errors mean.
package awsaccount

import (
	"bytes"
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/keyturn/keyturn/internal/endpoint"
	"github.com/keyturn/keyturn/internal/outside"
	"github.com/keyturn/keyturn/internal/strictyaml"
	"github.com/keyturn/keyturn/providers"
)

// Account is an AWS account in one region, as an account of the worker configuration names it. What it
// leaves out comes from the SDK's standard environment: AWS_REGION, AWS_PROFILE, AWS_ENDPOINT_URL, shared
// files, roles of the container or the instance.
type Account struct {
	// Region such as eu-central-1; AWS_REGION or the profile's otherwise.
	Region string `json:"region,omitempty"`
	// Profile of the shared configuration files; AWS_PROFILE otherwise.
	Profile string `json:"profile,omitempty"`
	// Endpoint is a URL to use instead of AWS's own: https, or http on this host. AWS_ENDPOINT_URL otherwise.
	Endpoint string `json:"endpoint,omitempty"`

	mu     sync.Mutex
	loaded *aws.Config
	// quota bounds the calls that are made by way of this; nil for no bound.
	quota *quota
}

var _ providers.Paced = (*Account)(nil)

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Problems tells what is wrong with the account.
func (a *Account) Problems() []strictyaml.Problem {
	var list []strictyaml.Problem
	if a.Region != "" && !nameForm.MatchString(a.Region) {
		list = append(list, strictyaml.Problem{Field: "region", What: "is no region", Write: "a name such as eu-central-1"})
	}
	if a.Profile != "" && !nameForm.MatchString(a.Profile) {
		list = append(list, strictyaml.Problem{Field: "profile", What: "is no profile's name", Write: "the name of a profile in ~/.aws/config"})
	}
	if a.Endpoint != "" {
		if what, write := endpoint.Judge(a.Endpoint); what != "" {
			list = append(list, strictyaml.Problem{Field: "endpoint", What: what, Write: write})
		}
	}
	return list
}

// OnThisHost tells whether a service of the account, such as IAM, is reached at a loopback address: a
// double, not AWS. It goes by the order in which the SDK looks for an endpoint.
func (a *Account) OnThisHost(service string) bool {
	where := a.Endpoint
	if where == "" && !strings.EqualFold(os.Getenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"), "true") {
		where = cmp.Or(os.Getenv("AWS_ENDPOINT_URL_"+service), os.Getenv("AWS_ENDPOINT_URL"))
	}
	u, err := url.Parse(where)
	return err == nil && (u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback())
}

// Config returns the SDK's configuration of the account. It is loaded once, so that credentials of a role
// are fetched anew only when they expire.
func (a *Account) Config(ctx context.Context) (aws.Config, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.loaded != nil {
		return *a.loaded, nil
	}
	each := []func(*middleware.Stack) error{boundReplies, refuseSkew}
	if a.quota != nil {
		each = append(each, pace(a.quota))
	}
	options := []func(*config.LoadOptions) error{
		config.WithAPIOptions(each),
		config.WithLogger(logging.Nop{}), // what matters comes as an error; its own words may be those of a peer
	}
	if a.Region != "" {
		options = append(options, config.WithRegion(a.Region))
	}
	if a.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(a.Profile))
	}
	if a.Endpoint != "" {
		options = append(options, config.WithBaseEndpoint(a.Endpoint))
	}
	c, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, fmt.Errorf("reading AWS's environment: %w", err)
	}
	if c.Region == "" {
		return aws.Config{}, fmt.Errorf("reading AWS's environment: %w: there is no region: set region in the account, or AWS_REGION", providers.ErrInvalid)
	}
	if a.Endpoint != "" {
		c.BaseEndpoint = &a.Endpoint // AWS_IGNORE_CONFIGURED_ENDPOINT_URLS has the SDK forget it, too, and ask AWS itself
	}
	a.loaded = &c
	return c, nil
}

const (
	// maxReply bounds what is read of a reply: the SDK reads all that comes. The largest honest one has a page
	// of names, or a secret of 64 KiB.
	maxReply = 1 << 20
	// maxPages bounds a list. Quotas of AWS keep honest ones far below.
	maxPages = 100
)

// Caller is who a worker is for AWS, by its ARN.
func Caller(ctx context.Context, c aws.Config) (arn string, err error) {
	own, err := sts.NewFromConfig(c).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return "", Error("asking AWS who the worker is", err)
	}
	return aws.ToString(own.Arn), nil
}

// boundReplies ends a reply with an error once it is too long, and refuses what a service that speaks XML does
// not answer: the SDK takes a reply without any XML, such as an empty one, for an empty list.
func boundReplies(stack *middleware.Stack) error {
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("keyturn:BoundReplies",
		func(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
			out, metadata, err := next.HandleDeserialize(ctx, in)
			reply, ok := out.RawResponse.(*smithyhttp.Response)
			if !ok || reply.Body == nil {
				return out, metadata, err
			}
			reply.Body = &bounded{ReadCloser: reply.Body, left: maxReply}
			if err == nil && reply.StatusCode/100 == 2 && slices.Contains(speakXML, awsmiddleware.GetServiceID(ctx)) {
				err = mustAnswer(awsmiddleware.GetOperationName(ctx), reply)
			}
			return out, metadata, err
		}), middleware.After) // the last one is the first to see the reply
}

// speakXML are the services whose replies all are XML.
var speakXML = []string{"IAM", "STS"}

// mustAnswer refuses a reply whose root is not that of the operation's replies.
func mustAnswer(operation string, reply *smithyhttp.Response) error {
	var seen bytes.Buffer
	decoder := xml.NewDecoder(io.TeeReader(reply.Body, &seen))
	for {
		token, err := decoder.RawToken()
		if err != nil {
			return &smithy.DeserializationError{Err: fmt.Errorf("reading the reply: %w", err)}
		}
		if root, ok := token.(xml.StartElement); ok {
			if root.Name.Local != operation+"Response" {
				return &smithy.DeserializationError{Err: fmt.Errorf("the reply is not one of %s", operation)}
			}
			break
		}
	}
	reply.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(&seen, reply.Body), reply.Body}
	return nil
}

type bounded struct {
	io.ReadCloser
	left int
}

var errTooLong = fmt.Errorf("the reply is longer than %d bytes", maxReply)

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// pager is a paginator of one of the SDK's clients.
type pager[Page, Options any] interface {
	HasMorePages() bool
	NextPage(ctx context.Context, optFns ...func(*Options)) (*Page, error)
}

// Pages hands over page after page, up to the first error.
func Pages[Page, Options any](ctx context.Context, p pager[Page, Options], each func(*Page) error) error {
	for n := 0; p.HasMorePages(); n++ {
		if n == maxPages {
			return fmt.Errorf("the list has more than %d pages", maxPages)
		}
		page, err := p.NextPage(ctx)
		if err != nil {
			return err
		}
		if err := each(page); err != nil {
			return err
		}
	}
	return nil
}

// codes says what the error codes of IAM, STS, Secrets Manager and CloudTrail's LookupEvents mean, as their API references
// list them. One that has no meaning here is passing trouble, and so is one that is not here, of which the text is not
// repeated: whoever poses as AWS may write a key there.
var codes = map[string]error{
	"Throttling": providers.ErrThrottled, "ThrottlingException": providers.ErrThrottled, "ThrottledException": providers.ErrThrottled,
	"RequestLimitExceeded": providers.ErrThrottled, "TooManyRequestsException": providers.ErrThrottled, "RequestThrottled": providers.ErrThrottled,
	"LimitExceededException": providers.ErrThrottled, // a quota of Secrets Manager: that of versions is free again by and by

	"NoSuchEntity": providers.ErrNotFound, "NoSuchEntityException": providers.ErrNotFound, "ResourceNotFoundException": providers.ErrNotFound,

	"AccessDenied": providers.ErrDenied, "AccessDeniedException": providers.ErrDenied, "UnauthorizedOperation": providers.ErrDenied,
	"InvalidClientTokenId": providers.ErrDenied, "UnrecognizedClientException": providers.ErrDenied, "SignatureDoesNotMatch": providers.ErrDenied,

	"ResourceExistsException": providers.ErrConflict,

	"InvalidInput": providers.ErrInvalid, "ValidationError": providers.ErrInvalid, "InvalidParameterException": providers.ErrInvalid,
	"InvalidParameterValue": providers.ErrInvalid, "InvalidRequestException": providers.ErrInvalid,
	"MalformedPolicyDocumentException": providers.ErrInvalid, "DecryptionFailure": providers.ErrDenied, "EncryptionFailure": providers.ErrDenied,

	"InternalFailure": nil, "InternalError": nil, "InternalServerError": nil, "InternalServiceError": nil, "InternalServiceErrorException": nil,
	"ServiceFailure": nil, "ServiceFailureException": nil, "ServiceUnavailable": nil, "ServiceUnavailableException": nil, "RequestTimeout": nil,
	"ExpiredToken": nil, "ExpiredTokenException": nil, "RequestExpired": nil, "RequestTimeTooSkewed": nil, "IncompleteSignature": nil,
	"OptInRequired": nil, "NotAuthorized": nil, "RegionDisabledException": nil, "PackedPolicyTooLarge": nil, "IDPCommunicationError": nil,
	"InvalidAction": nil, "MissingAction": nil, "MissingParameter": nil, "InvalidParameterCombination": nil, "InvalidQueryParameter": nil,
	"MalformedQueryString": nil, "MissingAuthenticationToken": nil, "MissingAuthenticationTokenException": nil, "UnknownOperationException": nil,
	"InvalidSignatureException": nil, "LimitExceeded": nil, "ConcurrentModification": nil, "ConcurrentModificationException": nil, "DeleteConflict": nil,
	"EntityAlreadyExists": nil, "EntityAlreadyExistsException": nil, "EntityTemporarilyUnmodifiable": nil, "UnmodifiableEntity": nil,
	"PreconditionNotMetException": nil, "InvalidNextTokenException": nil, "PublicPolicyException": nil, "PolicyEvaluation": nil,
	"ReplicationException": nil, "InvalidLookupAttributesException": providers.ErrInvalid, "InvalidMaxResultsException": providers.ErrInvalid,
	"InvalidTimeRangeException": providers.ErrInvalid,
}

// Code is the error code that AWS answered with; empty for an error of another kind, and for a code that AWS does not
// document.
func Code(err error) string {
	var answer smithy.APIError
	if !errors.As(err, &answer) {
		return ""
	}
	if code := answer.ErrorCode(); Documented(code) {
		return code
	}
	return ""
}

// Documented tells whether an error code is one that AWS documents.
func Documented(code string) bool {
	_, documented := codes[code]
	return documented
}

// maxName bounds what is kept of a name that AWS gives to something.
const maxName = 256

// Name is a name that AWS gives to something, fit for errors and people.
func Name(name *string) string { return outside.Text(aws.ToString(name), maxName) }

// requestID is the form of the ID by which AWS's support, and CloudTrail, find a request.
var requestID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// Error says what was going on when AWS answered with an error, and wraps the sentinel that it means. Its text has what AWS
// documents, which finds the whole in CloudTrail, and no words of the reply: a key may be in them.
func Error(doing string, err error) error {
	var skew *clockError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", doing, cause(err))
	case errors.Is(err, errTooLong):
		return fmt.Errorf("%s: %w", doing, errTooLong)
	case errors.Is(err, errQuota):
		return fmt.Errorf("%s: %w", doing, errQuota)
	case errors.As(err, &skew):
		return fmt.Errorf("%s: %w", doing, skew)
	}
	if sentinel := codes[Code(err)]; sentinel != nil {
		return fmt.Errorf("%s: %w: %s", doing, sentinel, text(err))
	}
	return fmt.Errorf("%s: %s", doing, text(err))
}

// text is why a call failed, in words of ours.
func text(err error) string {
	var answer smithy.APIError
	var unreadable *smithy.DeserializationError
	var unsent *smithyhttp.RequestSendError
	var operation *smithy.OperationError
	switch {
	case errors.As(err, &answer):
		return called(err) + cmp.Or(Code(err), "an error code that AWS does not document") + traced(err)
	case errors.As(err, &unreadable):
		return "the reply is not one of AWS's API"
	case errors.As(err, &unsent):
		return called(err) + endpoint.Failure(err)
	case !errors.As(err, &operation):
		return err.Error() // it is not the SDK's, but ours
	}
	// Before it is sent, a request fails for its credentials, which may come from elsewhere by HTTP.
	return called(err) + "no request was sent: are there credentials for the worker? Try: aws sts get-caller-identity"
}

// called names the operation that failed.
func called(err error) string {
	var operation *smithy.OperationError
	if !errors.As(err, &operation) {
		return ""
	}
	return operation.Service() + " " + operation.Operation() + ": "
}

// traced is what finds the request on AWS's side.
func traced(err error) string {
	var answer *awshttp.ResponseError
	if !errors.As(err, &answer) {
		return ""
	}
	id := answer.ServiceRequestID()
	if !requestID.MatchString(id) {
		return fmt.Sprintf(" (status %d)", answer.HTTPStatusCode())
	}
	return fmt.Sprintf(" (status %d, request %s)", answer.HTTPStatusCode(), id)
}

// cause is the end of the context alone: the SDK wraps it in text of its own.
func cause(err error) error {
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	return context.DeadlineExceeded
}
