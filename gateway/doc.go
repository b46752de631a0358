// Package gateway is for API gateways whose keys keyturn rotates. It checks the keys of requests against the key file that
// keyturn writes, notices each change of it with the next request, and reports the last use of each key, so that keyturn can
// prove that a retiring one is quiet before it ends:
//
//	keys, err := gateway.OpenVerifier("/etc/edge/keys.json", "")
//	if err != nil {
//		return err
//	}
//	defer keys.Close()
//	grant, ok := keys.VerifyFrom(value, request.RemoteAddr) // for each request
//	if !ok {
//		http.Error(w, "no valid key", http.StatusUnauthorized)
//	}
//
// Ask for each request instead of keeping the answer: a key that is disabled is refused from the next request on.
//
// Each report in the usage file says as of when it is, by the gateway's clock, also when nothing was used. Uses of a
// disabled key are in it, too: somebody still relies on it. Gateways that share a usage file report as one: it is as of
// when the last of them did, so let one that cannot report (Verifier.Err) take no requests.
//
// Beside the standard library the package brings a library for file locks and nothing else, so that importing it costs a gateway
// next to nothing. Gateways in other languages read and write the same two files: docs/gateway.md has their formats, and a
// verifier in Python.
package gateway
