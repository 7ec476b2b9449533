
=pod

=head1 NAME

Certificates - certificates for the tests of TLS, by openssl

=head1 SYNOPSIS

  use Certificates;

  my $certificates = Certificates->new;
  my $server = $certificates->make('server', names => 'DNS:localhost,IP:127.0.0.1');
  my $nats = NatsServer->new(tls => $server)->start;
  NatsClient->new(url => $nats->url, tls => { SSL_ca_file => $certificates->ca_file });

=head1 DESCRIPTION

Two certificate authorities that know nothing of each other, C<ca> and C<foreign>, and what they sign. All files are
in a directory of the test.

=cut

package Certificates;

use strict;
use warnings FATAL => 'all';

use IPC::Run ();

use PostgreSQL::Test::Utils;

=pod

=head1 METHODS

=over

=item Certificates->new

=item $certificates->ca_file, $certificates->ca_file('foreign')

The certificate of an authority.

=item $certificates->make($name, %args)

A new key, and a certificate of it: a hash of C<cert_file> and C<key_file>, which are named after C<$name>. Made again
under the same name, they replace the old ones in place. All arguments are optional:

  ca       'foreign' has the other authority sign it
  subject  as in openssl: /O=Example/CN=localhost
  names    subjectAltName as in openssl; none if not said
  expired  1: it was valid for a day, years ago

=item $certificates->write($name, $text)

Writes a file next to them, which is no good as one of them; returns its path.

=back

=cut

sub new
{
	my ($class) = @_;
	my $self = bless { dir => PostgreSQL::Test::Utils::tempdir('certificates') }, $class;
	$self->write('index.txt', '');
	$self->write('openssl.cnf', <<"END");
[req]
distinguished_name = name
x509_extensions = authority
prompt = no
[name]
CN = unused
[authority]
basicConstraints = critical, CA:TRUE
subjectKeyIdentifier = hash
[ca]
default_ca = signing
[signing]
database = $self->{dir}/index.txt
new_certs_dir = $self->{dir}
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
O = optional
CN = optional
END
	foreach my $ca ('ca', 'foreign')
	{
		$self->_openssl('req', '-x509', _key(), '-days', 2, '-subj', "/CN=authority $ca",
			'-keyout', "$self->{dir}/$ca.key", '-out', $self->ca_file($ca));
	}
	return $self;
}

sub ca_file
{
	my ($self, $ca) = @_;
	return "$self->{dir}/" . ($ca // 'ca') . '.crt';
}

sub make
{
	my ($self, $name, %args) = @_;
	my $ca = $args{ca} // 'ca';
	my $file = "$self->{dir}/$name";
	my @names = $args{names} ? ('-extfile', $self->write("$name.cnf", "subjectAltName = $args{names}\n")) : ();
	my ($start, $end) = $args{expired} ? (20200101, 20200102) : (20200101, 20900101);
	$self->_openssl('req', _key(), '-subj', $args{subject} // '/CN=unnamed', '-keyout', "$file.key", '-out', "$file.csr");
	$self->_openssl('ca', '-batch', '-notext', '-in', "$file.csr", '-out', "$file.crt",
		'-cert', $self->ca_file($ca), '-keyfile', "$self->{dir}/$ca.key",
		'-startdate', "${start}000000Z", '-enddate', "${end}000000Z", @names);
	return { cert_file => "$file.crt", key_file => "$file.key" };
}

sub write
{
	my ($self, $name, $text) = @_;
	my $path = "$self->{dir}/$name";
	open(my $file, '>', $path) or die "$path: $!";
	print $file $text;
	close $file or die "$path: $!";
	return $path;
}

# The arguments for a new key that takes no time to make.
sub _key { return ('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'); }

sub _openssl
{
	my ($self, $command, @args) = @_;
	my @command = ('openssl', $command, '-config', "$self->{dir}/openssl.cnf", @args);
	my $output = '';
	IPC::Run::run(\@command, '<', \undef, '>&', \$output) or die "@command failed:\n$output";
	return;
}

1;
