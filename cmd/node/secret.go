package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
)

const (
	// secretEnv is the environment variable that holds the cluster's secret in hex. It is never
	// a flag: everybody on a machine can read the arguments of a process.
	secretEnv = "WEIR_SECRET"
	// secretBytes is the length of the secret (DESIGN 4).
	secretBytes = 32
	// secretFileMax is the most that is read of a secret's file, in bytes: any more is no secret.
	secretFileMax = 4 << 10
)

// newSecret makes a secret.
func newSecret() []byte {
	b := make([]byte, secretBytes)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return b
}

// findSecret returns the cluster's secret from the environment or a file, and nil where neither
// is given.
func findSecret(env, file string) ([]byte, error) {
	switch {
	case env != "" && file != "":
		return nil, &exitError{exitUsage, fmt.Errorf("the secret comes from %s or from --secret-file, not from both", secretEnv)}
	case env != "":
		return parseSecret(secretEnv, env)
	case file == "":
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, &exitError{exitConfig, fmt.Errorf("secret file: %w", err)}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, secretFileMax))
	if err != nil {
		return nil, &exitError{exitConfig, fmt.Errorf("secret file: %w", err)}
	}
	return parseSecret("secret file "+file, string(text))
}

// parseSecret decodes a secret that comes from somewhere. The text never is in the error.
func parseSecret(from, text string) ([]byte, error) {
	text = strings.TrimSpace(text)
	b, err := hex.DecodeString(text)
	switch {
	case len(text) != hex.EncodedLen(secretBytes):
		return nil, &exitError{exitUsage, fmt.Errorf("%s has %d characters, a secret has %d: was it copied whole?", from, len(text), hex.EncodedLen(secretBytes))}
	case err != nil:
		return nil, &exitError{exitUsage, fmt.Errorf("%s has a character that is no hex digit: a secret is what weir cluster secret prints", from)}
	}
	return b, nil
}
