// Fetches and validates X.509-SVIDs and JWT-SVIDs from a Workload API with go-spiffe, and prints what it got as JSON.
//
//	gospiffe unix:///path/to/socket AUDIENCE [updates]
//
// With `updates` it waits for so many updates of its X.509-SVID and prints the serial numbers.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

type watcher struct {
	serials chan string
}

func (w watcher) OnX509ContextUpdate(update *workloadapi.X509Context) {
	w.serials <- update.DefaultSVID().Certificates[0].SerialNumber.Text(16)
}

func (w watcher) OnX509ContextWatchError(err error) {
	fmt.Fprintln(os.Stderr, err)
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(os.Args[1]))
	if err != nil {
		return err
	}
	defer client.Close()
	got := map[string]any{}

	x509Context, err := client.FetchX509Context(ctx)
	if err != nil {
		return err
	}
	svid := x509Context.DefaultSVID()
	id, _, err := x509svid.Verify(svid.Certificates, x509Context.Bundles)
	if err != nil {
		return err
	}
	got["x509"], got["hint"], got["chain"] = id.String(), svid.Hint, len(svid.Certificates)

	bundles, err := client.FetchX509Bundles(ctx)
	if err != nil {
		return err
	}
	got["x509_bundles"] = len(bundles.Bundles())

	audience := os.Args[2]
	token, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return err
	}
	jwtBundles, err := client.FetchJWTBundles(ctx)
	if err != nil {
		return err
	}
	// Validated twice: by go-spiffe itself against the bundle, and by the issuer.
	parsed, err := jwtsvid.ParseAndValidate(token.Marshal(), jwtBundles, []string{audience})
	if err != nil {
		return err
	}
	got["jwt"] = parsed.ID.String()
	validated, err := client.ValidateJWTSVID(ctx, token.Marshal(), audience)
	if err != nil {
		return err
	}
	got["validated"] = validated.ID.String()
	_, err = client.ValidateJWTSVID(ctx, token.Marshal(), audience+"x")
	got["another_audience"] = err != nil

	if len(os.Args) > 3 {
		count, err := strconv.Atoi(os.Args[3])
		if err != nil {
			return err
		}
		watch := watcher{serials: make(chan string, count)}
		go func() { _ = client.WatchX509Context(ctx, watch) }()
		serials := []string{}
		for len(serials) < count {
			select {
			case serial := <-watch.serials:
				serials = append(serials, serial)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		got["serials"] = serials
	}
	return json.NewEncoder(os.Stdout).Encode(got)
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
