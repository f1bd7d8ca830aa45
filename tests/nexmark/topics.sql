-- The three streams of Nexmark. Times are milliseconds since 1970, as the generator has them. What is sent in one
-- batch spans some seconds and is stored in several queues, not all in one tick; so watermarks wait for ten.
CREATE TOPIC person (
    id BIGINT, name VARCHAR, email_address VARCHAR, credit_card VARCHAR, city VARCHAR, state VARCHAR,
    date_time TIMESTAMP, extra VARCHAR,
    WATERMARK FOR date_time AS date_time - INTERVAL '10 seconds'
) WITH (queues = 2);

CREATE TOPIC auction (
    id BIGINT, item_name VARCHAR, description VARCHAR, initial_bid BIGINT, reserve BIGINT,
    date_time TIMESTAMP, expires TIMESTAMP, seller BIGINT, category BIGINT, extra VARCHAR,
    WATERMARK FOR date_time AS date_time - INTERVAL '10 seconds'
) WITH (queues = 2);

CREATE TOPIC bid (
    auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR,
    date_time TIMESTAMP, extra VARCHAR,
    WATERMARK FOR date_time AS date_time - INTERVAL '10 seconds'
) WITH (queues = 3);

CREATE TOPIC side_input (key BIGINT, value VARCHAR) WITH (queues = 1);
