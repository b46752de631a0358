package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	cdpinput "github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// screenshots names the folder that pictures of each step go to, besides; nothing is kept when it is empty.
const screenshots = "KEYTURN_SCREENSHOTS"

// browsers are the programs that will do.
var browsers = []string{"chromium-headless-shell", "chromium", "google-chrome"}

// browser is a headless one with one page open.
type browser struct {
	t   *testing.T
	ctx context.Context
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	program := ""
	for _, name := range browsers {
		if found, err := exec.LookPath(name); err == nil {
			program = found
			break
		}
	}
	if program == "" {
		const how = "no browser is installed: apt-get install chromium-headless-shell"
		if os.Getenv("CI") != "" {
			require.Fail(t, how)
		}
		t.Skip(how)
	}
	home := t.TempDir()
	ctx, end := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program),
		chromedp.NoSandbox, // of root; the pages are our own
		chromedp.UserDataDir(filepath.Join(home, "profile")),
		chromedp.Env("HOME="+home, "TMPDIR="+home),
		chromedp.WindowSize(1280, 800),
	)...)
	t.Cleanup(end)
	ctx, end = chromedp.NewContext(ctx)
	t.Cleanup(end)
	t.Cleanup(func() { _ = chromedp.Cancel(ctx) }) // which waits until it has ended, so that its files can be removed
	require.NoError(t, chromedp.Do(ctx, chromedp.EmulateViewport(1280, 800)), "starting the browser")
	limited, end := context.WithTimeout(ctx, patience)
	t.Cleanup(end)
	b := &browser{t: t, ctx: limited}
	t.Cleanup(func() {
		if t.Failed() {
			b.ctx = ctx
			b.keeps("failed")
		}
	})
	return b
}

// does what a person does, and waits for what that needs.
func (b *browser) does(what string, actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	require.NoError(b.t, chromedp.Do(b.ctx, actions...), what)
}

// keeps a picture of the window, where somebody wants some.
func (b *browser) keeps(name string) {
	b.t.Helper()
	folder := os.Getenv(screenshots)
	if folder == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if !assert.NoError(b.t, err, "keeping a picture") {
		return
	}
	require.NoError(b.t, os.MkdirAll(folder, 0o750))
	require.NoError(b.t, os.WriteFile(filepath.Join(folder, name+".png"), png, 0o600))
}

// comes waits until a function of JavaScript says true. One that a page ended by going elsewhere is called again on the next.
func (b *browser) comes(function string, args ...string) {
	b.t.Helper()
	given, err := json.Marshal(args)
	require.NoError(b.t, err)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		came, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](fmt.Sprintf("(%s)(...%s)", function, given)))
		if err == nil && came {
			return
		}
		select {
		case <-b.ctx.Done():
			require.Fail(b.t, "it did not come", "%s: %v", given, err)
		case <-ticker.C:
		}
	}
}

// reads until the page has all of a text, in itself or in the frame of the current details, which the Web UI renders apart.
func (b *browser) reads(text ...string) {
	b.t.Helper()
	for _, t := range text {
		b.comes(`(text) => [document, ...[...document.querySelectorAll("iframe")].map((f) => f.contentDocument)]
			.some((d) => d?.body?.textContent.includes(text))`, t)
	}
}

// clicks on what a selector finds and whose text begins so.
func (b *browser) clicks(selector, text string) {
	b.t.Helper()
	b.finds(selector, text, "click")
}

// finds the first element of a selector and a text that can be seen, once it is there: the Web UI's markup has more of some, for
// windows of other sizes. Then it does there what the method of that name does.
func (b *browser) finds(selector, text, does string) {
	b.t.Helper()
	b.comes(`(selector, text, does) => {
		const found = [...document.querySelectorAll(selector)].find((e) => e.checkVisibility() && !e.disabled && e.innerText.trim().startsWith(text));
		found?.[does]();
		return found !== undefined;
	}`, selector, text, does)
}

// signals the run by its page's dialog.
func (b *browser) signals(name, input string) {
	b.t.Helper()
	b.clicks("button", "More Actions")
	b.clicks("[data-testid=signal-button]", "Send a Signal")
	const dialog = "[data-testid=signal-confirmation-modal] "
	b.clicks(dialog+"[data-testid=signal-select-button]", "")
	b.clicks(dialog+"[role=option]", name)
	b.finds(dialog+"[role=textbox]", "", "focus")
	b.does("writing "+input, func(ctx context.Context, page *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, page, cdpinput.InsertText, cdpinput.InsertTextParams{Text: input}) // as pasting does
		return chromedp.Void{}, err
	})
	b.keeps("dialog")
	b.clicks(dialog+"[data-testid=confirm-modal-button]", "Submit")
}

// What a person does at three in the morning: finds the run, reads what it waits for, and approves, at the second attempt; then a key is
// exposed, and the incident's page says how that stands.
func TestAPersonApprovesInABrowser(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	c := newConsole(t)
	c.gets(http.MethodGet, c.page(), nil) // brings the cookie
	c.awaitsDetails("0 of 1 approved")
	waits := savedViews(t)["waits for approval"]
	c.awaits(func() bool { return len(c.lists(waits)) > 0 }, func() string { return waits }) // the list may be a moment late

	b.does("opening the list", chromedp.Navigate(c.server.UIURL()+"/namespaces/default/workflows?query="+url.QueryEscape(waits)))
	b.reads(c.run.GetID())
	b.keeps("list")
	b.clicks("a", c.run.GetID())
	b.reads("revoke gate: ")
	b.keeps("timeline")

	b.clicks("a", "User Metadata")
	b.reads("0 of 1 approved", "payments@example.com", "keyturn approve payments-api --gate revoke", wantsApproval)
	b.keeps("details")
	b.signals("approve", malformed[0].input)
	c.awaitsDetails(malformed[0].says)
	b.does("looking again", chromedp.Reload())
	b.reads(malformed[0].says, "0 of 1 approved")
	b.keeps("malformed")

	b.signals("approve", wantsApproval)
	c.awaits(c.completed, c.details)
	b.does("looking again", chromedp.Reload())
	b.reads("Completed")
	b.keeps("completed")

	b.seesAnIncident(c)
}
