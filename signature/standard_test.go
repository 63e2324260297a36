package signature_test

import (
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/signature"
)

func TestVerifyAcceptsThePublishedSignature(t *testing.T) {
	t.Parallel()
	v := at(t, vectorTimestamp, vectorSecret)
	require.NoError(t, v.Verify(vectorHeader(), []byte(vectorBody)))
}

func TestVerifyAcceptsWhatArrivesOverHTTP(t *testing.T) {
	t.Parallel()
	v := at(t, vectorTimestamp, vectorSecret)
	results := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		results <- v.Verify(r.Header, []byte(vectorBody))
	}))
	defer server.Close()

	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader(vectorBody))
	require.NoError(t, err)
	// On the wire these are the lower-case names of the specification.
	for name, values := range vectorHeader() {
		req.Header[strings.ToLower(name)] = values
	}
	resp, err := server.Client().Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.NoError(t, <-results)
}

func TestVerifyNamesTheReason(t *testing.T) {
	t.Parallel()
	set := func(name string, values ...string) func(http.Header) {
		return func(h http.Header) { h[name] = values }
	}
	for name, c := range map[string]struct {
		change func(http.Header)
		reason error
		text   string
	}{
		"no ID":               {set(signature.HeaderID), signature.ErrMissingHeader, "missing header: Webhook-Id"},
		"empty ID":            {set(signature.HeaderID, ""), signature.ErrMissingHeader, "missing header: Webhook-Id"},
		"ID twice":            {set(signature.HeaderID, vectorID, vectorID), signature.ErrRepeatedHeader, "repeated header: Webhook-Id has 2 values, want 1"},
		"ID with a full stop": {set(signature.HeaderID, "msg.1"), signature.ErrBadID, "bad id: Webhook-Id contains a full stop"},
		"ID too long":         {set(signature.HeaderID, strings.Repeat("a", 4097)), signature.ErrTooLong, "header too long: Webhook-Id has 4097 bytes, want at most 4096"},
		"ID as long as may":   {set(signature.HeaderID, strings.Repeat("a", 4096)), signature.ErrNoMatch, ""},
		"another ID":          {set(signature.HeaderID, "msg_other"), signature.ErrNoMatch, "no matching signature: Webhook-Signature, v1 entries: 1, keys tried: 1"},

		"no timestamp":           {set(signature.HeaderTimestamp), signature.ErrMissingHeader, "missing header: Webhook-Timestamp"},
		"empty timestamp":        {set(signature.HeaderTimestamp, ""), signature.ErrMissingHeader, "missing header: Webhook-Timestamp"},
		"timestamp twice":        {set(signature.HeaderTimestamp, "1614265330", "1614265330"), signature.ErrRepeatedHeader, "repeated header: Webhook-Timestamp has 2 values, want 1"},
		"timestamp zero":         {set(signature.HeaderTimestamp, "0"), signature.ErrBadTimestamp, "bad timestamp: Webhook-Timestamp is not a decimal number of seconds from 1 to 1099511627776"},
		"timestamp negative":     {set(signature.HeaderTimestamp, "-1614265330"), signature.ErrBadTimestamp, ""},
		"timestamp with sign":    {set(signature.HeaderTimestamp, "+1614265330"), signature.ErrBadTimestamp, ""},
		"timestamp with zero":    {set(signature.HeaderTimestamp, "01614265330"), signature.ErrBadTimestamp, ""},
		"timestamp with space":   {set(signature.HeaderTimestamp, " 1614265330"), signature.ErrBadTimestamp, ""},
		"timestamp with point":   {set(signature.HeaderTimestamp, "1614265330.0"), signature.ErrBadTimestamp, ""},
		"timestamp exponential":  {set(signature.HeaderTimestamp, "1e9"), signature.ErrBadTimestamp, ""},
		"timestamp hexadecimal":  {set(signature.HeaderTimestamp, "0x60377a72"), signature.ErrBadTimestamp, ""},
		"timestamp with a score": {set(signature.HeaderTimestamp, "1_614_265_330"), signature.ErrBadTimestamp, ""},
		"timestamp a date":       {set(signature.HeaderTimestamp, "2021-02-25T15:02:10Z"), signature.ErrBadTimestamp, ""},
		"timestamp infinite":     {set(signature.HeaderTimestamp, "Infinity"), signature.ErrBadTimestamp, ""},
		"timestamp Arabic":       {set(signature.HeaderTimestamp, "١٦١٤٢٦٥٣٣٠"), signature.ErrBadTimestamp, ""},
		"timestamp in ms":        {set(signature.HeaderTimestamp, "1614265330000"), signature.ErrBadTimestamp, ""},
		"timestamp over 1<<40":   {set(signature.HeaderTimestamp, "1099511627777"), signature.ErrBadTimestamp, ""},
		"timestamp over int64":   {set(signature.HeaderTimestamp, "99999999999999999999"), signature.ErrBadTimestamp, ""},
		"timestamp 1<<40":        {set(signature.HeaderTimestamp, "1099511627776"), signature.ErrTooNew, "timestamp too new: Webhook-Timestamp is 1097897362446 s in the future, want at most 300 s"},
		"timestamp 1":            {set(signature.HeaderTimestamp, "1"), signature.ErrTooOld, "timestamp too old: Webhook-Timestamp is 1614265329 s in the past, want at most 300 s"},
		"another timestamp":      {set(signature.HeaderTimestamp, "1614265331"), signature.ErrNoMatch, ""},

		"no signature":       {set(signature.HeaderSignature), signature.ErrMissingHeader, "missing header: Webhook-Signature"},
		"empty signatures":   {set(signature.HeaderSignature, "", ""), signature.ErrMissingHeader, "missing header: Webhook-Signature"},
		"blank signature":    {set(signature.HeaderSignature, "  "), signature.ErrNoMatch, "v1 entries: 0"},
		"only unknown":       {set(signature.HeaderSignature, "v2"+vectorSignature[2:]), signature.ErrNoMatch, "v1 entries: 0"},
		"v1a is not v1":      {set(signature.HeaderSignature, "v1a"+vectorSignature[2:]), signature.ErrNoMatch, "v1 entries: 0"},
		"version in caps":    {set(signature.HeaderSignature, "V1"+vectorSignature[2:]), signature.ErrNoMatch, "v1 entries: 0"},
		"no version":         {set(signature.HeaderSignature, vectorSignature[3:]), signature.ErrNoMatch, "v1 entries: 0"},
		"version alone":      {set(signature.HeaderSignature, "v1"), signature.ErrNoMatch, "v1 entries: 1"},
		"version and comma":  {set(signature.HeaderSignature, "v1,"), signature.ErrNoMatch, "v1 entries: 1"},
		"not padded":         {set(signature.HeaderSignature, strings.TrimSuffix(vectorSignature, "=")), signature.ErrNoMatch, ""},
		"padded too much":    {set(signature.HeaderSignature, vectorSignature+"="), signature.ErrNoMatch, ""},
		"other base64 of it": {set(signature.HeaderSignature, strings.Replace(vectorSignature, "OE=", "OF=", 1)), signature.ErrNoMatch, ""},
		"wrong signature":    {set(signature.HeaderSignature, "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="), signature.ErrNoMatch, ""},
		"too long":           {set(signature.HeaderSignature, strings.Repeat("a", 4097)), signature.ErrTooLong, "header too long: Webhook-Signature has 4097 bytes, want at most 4096"},
		"too long in lines":  {set(signature.HeaderSignature, vectorSignature, strings.Repeat("a", 4050)), signature.ErrTooLong, "has 4097 bytes"},
		"as long as may":     {set(signature.HeaderSignature, strings.Repeat("a", 4096)), signature.ErrNoMatch, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			header := vectorHeader()
			c.change(header)
			err := at(t, vectorTimestamp, vectorSecret).Verify(header, []byte(vectorBody))
			require.ErrorIs(t, err, c.reason)
			require.ErrorContains(t, err, c.text)
			require.True(t, strings.HasPrefix(err.Error(), "signature: "), err.Error())
			require.NotContains(t, err.Error(), vectorSecret[6:])
			require.NotContains(t, err.Error(), vectorSignature[3:20])
		})
	}
}

func TestVerifyIgnoresKeysThatAreNotCanonical(t *testing.T) {
	t.Parallel()
	header := http.Header{}
	for name, values := range vectorHeader() {
		header[strings.ToLower(name)] = values
	}
	err := at(t, vectorTimestamp, vectorSecret).Verify(header, []byte(vectorBody))
	require.ErrorIs(t, err, signature.ErrMissingHeader)
	require.ErrorIs(t, at(t, vectorTimestamp, vectorSecret).Verify(nil, nil), signature.ErrMissingHeader)
}

func TestToleranceIsExactToTheSecond(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tolerance time.Duration
		age       int64 // seconds from the timestamp to the clock
		reason    error
	}{
		"default, oldest":            {age: 300},
		"default, too old":           {age: 301, reason: signature.ErrTooOld},
		"default, newest":            {age: -300},
		"default, too new":           {age: -301, reason: signature.ErrTooNew},
		"10 s, oldest":               {tolerance: 10 * time.Second, age: 10},
		"10 s, too old":              {tolerance: 10 * time.Second, age: 11, reason: signature.ErrTooOld},
		"10 s, newest":               {tolerance: 10 * time.Second, age: -10},
		"10 s, too new":              {tolerance: 10 * time.Second, age: -11, reason: signature.ErrTooNew},
		"fraction dropped, now":      {tolerance: time.Nanosecond},
		"fraction dropped, too old":  {tolerance: 1999 * time.Millisecond, age: 2, reason: signature.ErrTooOld},
		"fraction dropped, too new":  {tolerance: 1999 * time.Millisecond, age: -2, reason: signature.ErrTooNew},
		"fraction dropped, in time":  {tolerance: 1999 * time.Millisecond, age: -1},
		"the longest, far in past":   {tolerance: math.MaxInt64, age: 1 << 33},
		"the longest, far in future": {tolerance: math.MaxInt64, age: -1 << 33},
		"the longest, too new":       {tolerance: math.MaxInt64, age: -1 << 39, reason: signature.ErrTooNew},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const sent = 1 << 38
			v := at(t, sent, vectorSecret)
			v.Tolerance = c.tolerance
			header := sign(v.Keys[0], "id", sent, "body")
			// The fraction of the second must not matter on either side.
			for _, fraction := range []int64{0, 1, 5e8, 1e9 - 1} {
				v.Now = func() time.Time { return time.Unix(sent+c.age, fraction) }
				if err := v.Verify(header, []byte("body")); c.reason == nil {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, c.reason)
				}
			}
		})
	}
}

func TestTimestampBoundsVerify(t *testing.T) {
	t.Parallel()
	for _, timestamp := range []int64{1, 1 << 40} {
		v := at(t, timestamp, vectorSecret)
		require.NoError(t, v.Verify(sign(v.Keys[0], "id", timestamp, ""), nil))
	}
}

func TestZeroVerifierUsesTheClockAndFiveMinutes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		header := sign(mustKey(t, vectorSecret), "id", time.Now().Unix(), "body")
		verify := func() error { return signature.Verify(header, []byte("body"), vectorSecret) }
		require.NoError(t, verify())
		time.Sleep(signature.DefaultTolerance + time.Second - time.Nanosecond)
		require.NoError(t, verify())
		time.Sleep(time.Nanosecond)
		require.ErrorIs(t, verify(), signature.ErrTooOld)
	})
}

func TestAnyKeyAndAnySignatureWillDo(t *testing.T) {
	t.Parallel()
	const now, body = 1700000000, "body"
	secrets := []string{format(rawKey(24)), format(rawKey(32)), format(rawKey(64))}
	var sigs []string
	for _, secret := range secrets {
		sigs = append(sigs, mustKey(t, secret).Sign("id", now, []byte(body)))
	}
	wrong := mustKey(t, vectorSecret).Sign("id", now, []byte(body))
	header := func(lines ...string) http.Header {
		return http.Header{
			signature.HeaderID:        {"id"},
			signature.HeaderTimestamp: {strconv.Itoa(now)},
			signature.HeaderSignature: lines,
		}
	}
	for i, sig := range sigs {
		one, all := at(t, now, secrets[i]), at(t, now, secrets...)
		for name, lines := range map[string][]string{
			"alone":                   {sig},
			"first":                   {sig + " " + wrong},
			"last":                    {wrong + " " + sig},
			"all":                     {strings.Join(sigs, " ")},
			"twice":                   {sig + " " + sig},
			"among unknown versions":  {"v1a,AAAA= " + sig + " v2,BBBB= v99"},
			"after rubbish":           {"v1 v1, ,v1 = " + sig},
			"two spaces, both ends":   {"  " + wrong + "  " + sig + " "},
			"lines":                   {wrong, sig},
			"lines, one empty":        {"", sig},
			"lines joined, space":     {wrong + ", " + sig},
			"lines joined, no space":  {wrong + "," + sig},
			"lines joined, sig first": {sig + "," + wrong},
			"ten entries":             {strings.Repeat("v2,x ", 9) + sig},
		} {
			require.NoError(t, one.Verify(header(lines...), []byte(body)), "key %d, %s", i, name)
			require.NoError(t, all.Verify(header(lines...), []byte(body)), "all keys, signature %d, %s", i, name)
		}
		others := slices.Delete(slices.Clone(sigs), i, i+1)
		require.ErrorIs(t, one.Verify(header(strings.Join(others, " ")), []byte(body)), signature.ErrNoMatch)
	}
	require.ErrorIs(t, at(t, now, secrets...).Verify(header(wrong), []byte(body)), signature.ErrNoMatch)
}

func TestTooManySignaturesAreRefusedWhereverTheGoodOneIs(t *testing.T) {
	t.Parallel()
	v := at(t, vectorTimestamp, vectorSecret)
	for name, lines := range map[string][]string{
		"first":  {vectorSignature + strings.Repeat(" v2,x", 10)},
		"last":   {strings.Repeat("v2,x ", 10) + vectorSignature},
		"commas": {strings.Repeat("v2,x,", 10) + vectorSignature},
		"lines":  slices.Repeat([]string{vectorSignature}, 11),
	} {
		header := vectorHeader()
		header[signature.HeaderSignature] = lines
		err := v.Verify(header, []byte(vectorBody))
		require.ErrorIs(t, err, signature.ErrTooMany, name)
		require.EqualError(t, err, "signature: too many signatures: Webhook-Signature has more than 10 entries")
	}
}

func TestEveryFlippedBitIsRefused(t *testing.T) {
	t.Parallel()
	v := at(t, vectorTimestamp, vectorSecret)
	fields := [4]string{vectorID, strconv.Itoa(vectorTimestamp), vectorSignature, vectorBody}
	for f, field := range fields {
		for bit := range 8 * len(field) {
			changed := fields
			changed[f] = flip(field, bit)
			header := http.Header{
				signature.HeaderID:        {changed[0]},
				signature.HeaderTimestamp: {changed[1]},
				signature.HeaderSignature: {changed[2]},
			}
			require.Error(t, v.Verify(header, []byte(changed[3])), "bit %d of field %d", bit, f)
		}
	}
	require.ErrorIs(t, v.Verify(vectorHeader(), []byte(vectorBody+"\n")), signature.ErrNoMatch)
	require.ErrorIs(t, v.Verify(vectorHeader(), nil), signature.ErrNoMatch)
}

func TestWrongSecretIsRefused(t *testing.T) {
	t.Parallel()
	raw := rawKey(32)
	v := at(t, 1, format(raw))
	for bit := range 8 * len(raw) {
		key := mustKey(t, format([]byte(flip(string(raw), bit))))
		require.ErrorIs(t, v.Verify(sign(key, "id", 1, "body"), []byte("body")), signature.ErrNoMatch)
	}
}

// An ID with a full stop would make these two messages one.
func TestFullStopCannotMoveBytesBetweenFields(t *testing.T) {
	t.Parallel()
	key := mustKey(t, vectorSecret)
	require.Equal(t, key.Sign("a.1", 2, []byte("x")), key.Sign("a", 1, []byte("2.x")))
	v := at(t, 1, vectorSecret)
	require.NoError(t, v.Verify(sign(key, "a", 1, "2.x"), []byte("2.x")))
	require.ErrorIs(t, v.Verify(sign(key, "a.1", 2, "x"), []byte("x")), signature.ErrBadID)
}

func TestUnusableVerifierVerifiesNothing(t *testing.T) {
	t.Parallel()
	key := mustKey(t, vectorSecret)
	for text, v := range map[string]*signature.Verifier{
		"Keys and PublicKeys are empty, want at least 1 key":                                    {},
		"Keys[1] is the zero Key":                                                               {Keys: []signature.Key{key, {}}},
		"PublicKeys[0] is the zero PublicKey":                                                   {PublicKeys: make([]signature.PublicKey, 1)},
		"Tolerance is -1s, want 0 or more":                                                      {Keys: []signature.Key{key}, Tolerance: -time.Second},
		"Keys and PublicKeys are empty, want at least 1 key; Tolerance is -1ns, want 0 or more": {Tolerance: -1},
	} {
		v.Now = func() time.Time { return time.Unix(vectorTimestamp, 0) }
		err := v.Verify(vectorHeader(), []byte(vectorBody))
		require.ErrorIs(t, err, signature.ErrVerifier)
		require.EqualError(t, err, "signature: unusable verifier: "+text)
	}
}

func TestEmptySignatureOfAZeroKeyIsRefused(t *testing.T) {
	t.Parallel()
	var zero signature.Key
	header := sign(zero, "id", 1, "body")
	require.ErrorIs(t, at(t, 1, vectorSecret).Verify(header, []byte("body")), signature.ErrMissingHeader)
	v := &signature.Verifier{Keys: []signature.Key{zero}, Now: func() time.Time { return time.Unix(1, 0) }}
	for _, sig := range []string{"", "v1", "v1,", " ", ","} {
		header.Set(signature.HeaderSignature, sig)
		require.Error(t, v.Verify(header, []byte("body")))
	}
}

func TestNewVerifierReportsEveryBadSecret(t *testing.T) {
	t.Parallel()
	v, err := signature.NewVerifier("whsec_c2hvcnQ=", vectorSecret, "whsk_c2VjcmV0")
	require.Nil(t, v)
	require.ErrorIs(t, err, signature.ErrBadKey)
	require.EqualError(t, err, "signature: bad key: secret 1 of 3: 5 bytes, want 24 to 75\n"+
		"signature: bad key: secret 3 of 3: prefix whsk_ is that of a private key, want whsec_ or whpk_")

	v, err = signature.NewVerifier()
	require.Nil(t, v)
	require.ErrorIs(t, err, signature.ErrVerifier)

	require.ErrorIs(t, signature.Verify(vectorHeader(), nil, "secret"), signature.ErrBadKey)
	require.ErrorIs(t, signature.Verify(vectorHeader(), nil), signature.ErrVerifier)
}

func TestVerifyLeavesItsArgumentsAlone(t *testing.T) {
	t.Parallel()
	header, body := vectorHeader(), []byte(vectorBody)
	require.NoError(t, at(t, vectorTimestamp, vectorSecret).Verify(header, body))
	require.Equal(t, vectorHeader(), header)
	require.Equal(t, vectorBody, string(body))
}

func TestVerifierIsUsedAtOnce(t *testing.T) {
	t.Parallel()
	const now = 1700000000
	v := at(t, now, format(rawKey(24)), format(rawKey(64)))
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				body := strings.Repeat(strconv.Itoa(g), i)
				header := sign(v.Keys[i%2], strconv.Itoa(i), now, body)
				if err := v.Verify(header, []byte(body)); err != nil {
					t.Errorf("goroutine %d, request %d: %v", g, i, err)
					return
				}
				if err := v.Verify(header, []byte(body+"x")); !errors.Is(err, signature.ErrNoMatch) {
					t.Errorf("goroutine %d, request %d with a byte more: got %v, want ErrNoMatch", g, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// at returns a verifier whose clock stands at this second.
func at(t testing.TB, now int64, secrets ...string) *signature.Verifier {
	t.Helper()
	v, err := signature.NewVerifier(secrets...)
	require.NoError(t, err)
	v.Now = func() time.Time { return time.Unix(now, 0) }
	return v
}

// sign returns the headers of a request.
func sign(key signature.Key, id string, timestamp int64, body string) http.Header {
	return http.Header{
		signature.HeaderID:        {id},
		signature.HeaderTimestamp: {strconv.FormatInt(timestamp, 10)},
		signature.HeaderSignature: {key.Sign(id, timestamp, []byte(body))},
	}
}

func vectorHeader() http.Header {
	return http.Header{
		signature.HeaderID:        {vectorID},
		signature.HeaderTimestamp: {strconv.Itoa(vectorTimestamp)},
		signature.HeaderSignature: {vectorSignature},
	}
}

// flip changes one bit of s.
func flip(s string, bit int) string {
	b := []byte(s)
	b[bit/8] ^= 1 << (bit % 8)
	return string(b)
}
