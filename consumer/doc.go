// Package consumer is for programs whose API key keyturn rotates. It follows the key file that keyturn
// delivers, so that a new key is used without a restart, and states which key is in use, so that
// keyturn can prove that the retiring one may go:
//
//	keys, err := consumer.Open("/run/keys/checkout/payments-api", consumer.Options{})
//	if err != nil {
//		return err
//	}
//	defer keys.Close()
//	http.Handle("GET /keyturn", keys.Handler()) // the attestation, on loopback
//	request.Header.Set("Authorization", "Bearer "+keys.Key()) // ask again for each request
//
// Ask Key for each request instead of keeping its answer: what a program keeps, it uses after it has
// attested that it does not.
//
// The package needs the standard library alone, so that importing it costs a program nothing. Programs
// in other languages do the same with a file watch and one line of shell: see Fingerprint.
package consumer
