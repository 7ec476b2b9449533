
=pod

=head1 NAME

NatsAccounts - nkeys, accounts and users with JWTs for the tests of authentication, by openssl

=head1 SYNOPSIS

  use NatsAccounts;

  my $accounts = NatsAccounts->new;
  my $account = $accounts->account('A');
  my $nats = NatsServer->new(jetstream => 1, config => $accounts->server_config)->start;
  my $user = $accounts->user($account, 'app', publish => ['orders.>'], subscribe => ['_PG.>']);
  NatsClient->new(url => $nats->url, creds => $user);
  my $path = $accounts->creds_file($user);

  # without accounts
  my $key = NatsAccounts->nkey;
  my $nats = NatsServer->new(config => NatsAccounts->nkey_config($key))->start;
  NatsClient->new(url => $nats->url, nkey => $key);

=head1 DESCRIPTION

What nsc does, as far as tests need it: an operator, a system account, and accounts that the server knows from its
configuration. Users need not be known to the server: their account has signed them. A key is a hash of C<seed>
("SU...") and C<public> ("U..."); a user is one with its C<jwt> too.

=cut

package NatsAccounts;

use strict;
use warnings FATAL => 'all';

use Carp;
use IPC::Run ();
use JSON::PP ();
use MIME::Base64 qw(encode_base64url);

use PostgreSQL::Test::Utils;

my $JSON = JSON::PP->new->utf8->canonical;

# The first byte of a public key, which makes its first letter. In a seed it follows $SEED, at the next bit but 3.
my %PREFIX = (operator => 14 << 3, account => 0, user => 20 << 3);
my $SEED = 18 << 3;

my $BASE32 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';

# What stands before the 32 bytes of a private key in PKCS #8.
my $DER = pack 'H*', '302e020100300506032b657004220420';

my $last_id = 0;
my $dir;

=pod

=head1 METHODS

=over

=item NatsAccounts->new

A new operator with a system account.

=item $accounts->account($name, %limits)

A new account, with JetStream. Limits are those of its JWT: C<< conn => 2 >>, C<< payload => 1000 >>,
C<< disk_storage => 0, mem_storage => 0 >> for none of JetStream.

=item $accounts->user($account, $name, %args)

A new user of it. All arguments are optional:

  publish, deny_publish      arrays of subjects; everything if not said
  subscribe, deny_subscribe  the same
  expires                    at that time, in seconds since 1970

=item $accounts->system_user

A new user of the system account.

=item $accounts->server_config

For C<config> of NatsServer: operator mode, with all accounts that have been made.

=item $accounts->creds($user), $accounts->creds_file($user)

The text of the credentials file as nsc writes it; the path of a new file with it.

=cut

sub new
{
	my ($class) = @_;
	my $self = bless { operator => $class->nkey('operator'), accounts => [] }, $class;
	# the server wants no JetStream in it
	$self->{system} = $self->account('SYS', disk_storage => 0, mem_storage => 0);
	return $self;
}

sub account
{
	my ($self, $name, %limits) = @_;
	my @unlimited = qw(subs data payload imports exports conn leaf mem_storage disk_storage streams consumer);
	my $account = $self->nkey('account');
	$account->{jwt} = _jwt($self->{operator}, $account, $name, 'account',
		limits => { (map { $_ => -1 } @unlimited), wildcards => JSON::PP::true, %limits },
		default_permissions => { pub => {}, sub => {} });
	push @{ $self->{accounts} }, $account;
	return $account;
}

sub user
{
	my ($self, $account, $name, %args) = @_;
	my $user = $self->nkey;
	my $permissions = _permissions('pub', 'sub', %args);
	$user->{jwt} = _jwt($account, $user, $name, 'user', subs => -1, data => -1, payload => -1,
		pub => {}, sub => {}, %$permissions, exp => $args{expires});
	return $user;
}

sub system_user
{
	my ($self) = @_;
	return $self->user($self->{system}, 'sys');
}

sub server_config
{
	my ($self) = @_;
	my $operator = _jwt(@$self{ 'operator', 'operator' }, 'operator', 'operator', system_account => $self->{system}{public});
	my $accounts = join '', map { "\t$_->{public}: $_->{jwt}\n" } @{ $self->{accounts} };
	return <<"END";
operator: $operator
system_account: $self->{system}{public}
resolver: MEMORY
resolver_preload: {
$accounts}
END
}

sub creds
{
	my ($self, $user) = @_;
	return <<"END";
-----BEGIN NATS USER JWT-----
$user->{jwt}
------END NATS USER JWT------

************************* IMPORTANT *************************
NKEY Seed printed below can be used to sign and prove identity.
NKEYs are sensitive and should be treated as secrets.

-----BEGIN USER NKEY SEED-----
$user->{seed}
------END USER NKEY SEED------

*************************************************************
END
}

sub creds_file
{
	my ($self, $user) = @_;
	return _file(++$last_id . '.creds', $self->creds($user));
}

=pod

=item NatsAccounts->nkey($kind)

A new key: of a user, or of an C<account> or C<operator>.

=item NatsAccounts->nkey_config($key, %permissions)

For C<config> of NatsServer: this user alone, with permissions as for user(). For more users, nkey_user() is
what stands between the brackets of C<users = []>.

=item NatsAccounts->sign($seed, $bytes)

The signature in base64url: C<sig> of CONNECT, when the bytes are the C<nonce> of INFO.

=back

=cut

sub nkey
{
	my ($class, $kind) = @_;
	my $prefix = $PREFIX{ $kind // 'user' } // croak "no kind of key: $kind";
	my $private = _openssl('rand', '32');
	# of PKCS #8's public sibling too, the key is the end
	my $public = substr _openssl('pkey', '-inform', 'DER', '-in', _private_file($private), '-pubout', '-outform', 'DER'), -32;
	return {
		seed => _with_checksum(pack('CC', $SEED | $prefix >> 5, $prefix << 3 & 0xff) . $private),
		public => _with_checksum(chr($prefix) . $public) };
}

sub nkey_user
{
	my ($class, $key, %args) = @_;
	my $permissions = _permissions('publish', 'subscribe', %args);
	return $JSON->encode({ nkey => $key->{public}, permissions => $permissions });
}

sub nkey_config
{
	my ($class, $key, %args) = @_;
	return 'authorization { users = [ ' . $class->nkey_user($key, %args) . ' ] }';
}

sub sign
{
	my ($class, $seed, $bytes) = @_;
	my $bits = join '', map { sprintf '%05b', index($BASE32, $_) } split //, $seed;
	my $private = substr pack('B*', $bits), 2, 32;
	my @key = ('-keyform', 'DER', '-inkey', _private_file($private));
	return encode_base64url(_openssl('pkeyutl', '-sign', '-rawin', @key, '-in', _file('bytes', $bytes)));
}

# As in JWTs and in the server's configuration, which name the same things differently.
sub _permissions
{
	my ($publish, $subscribe, %args) = @_;
	my %permissions;
	$permissions{$publish}{allow} = $args{publish} if $args{publish};
	$permissions{$publish}{deny} = $args{deny_publish} if $args{deny_publish};
	$permissions{$subscribe}{allow} = $args{subscribe} if $args{subscribe};
	$permissions{$subscribe}{deny} = $args{deny_subscribe} if $args{deny_subscribe};
	return \%permissions;
}

# The claims that one key makes about another, in version 2.
sub _jwt
{
	my ($issuer, $subject, $name, $type, %nats) = @_;
	my $expires = delete $nats{exp};
	my %claims = (
		jti => 'test' . ++$last_id,
		iat => time,
		iss => $issuer->{public},
		name => $name,
		sub => $subject->{public},
		nats => { %nats, type => $type, version => 2 });
	$claims{exp} = $expires if defined $expires;
	my $signed = join '.', map { encode_base64url($JSON->encode($_)) } { typ => 'JWT', alg => 'ed25519-nkey' }, \%claims;
	return "$signed." . NatsAccounts->sign($issuer->{seed}, $signed);
}

# The text of a key: base32 of its bytes and their CRC-16/XMODEM.
sub _with_checksum
{
	my ($bytes) = @_;
	my $crc = 0;
	foreach my $byte (unpack 'C*', $bytes)
	{
		$crc ^= $byte << 8;
		$crc = ($crc << 1 ^ ($crc & 0x8000 ? 0x1021 : 0)) & 0xffff foreach 1 .. 8;
	}
	my $bits = unpack 'B*', $bytes . pack('v', $crc);
	return join '', map { substr $BASE32, oct('0b' . substr "${_}0000", 0, 5), 1 } $bits =~ /(.{1,5})/g;
}

sub _private_file
{
	my ($private) = @_;
	return _file('private', $DER . $private);
}

# Writes a file of the test. openssl takes nothing else for a key or for what is to be signed; that is used at once,
# so one of each name is enough.
sub _file
{
	my ($name, $bytes) = @_;
	$dir //= PostgreSQL::Test::Utils::tempdir('accounts');
	open(my $file, '>:raw', "$dir/$name") or die "$dir/$name: $!";
	print $file $bytes;
	close $file or die "$dir/$name: $!";
	return "$dir/$name";
}

sub _openssl
{
	my @command = ('openssl', @_);
	my ($output, $errors) = ('', '');
	IPC::Run::run(\@command, '<', \undef, '>', \$output, '2>', \$errors) or die "@command failed:\n$errors";
	return $output;
}

1;
