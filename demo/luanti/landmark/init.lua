-- Tells the server's name, which is one of its settings. At the world's first start, generates the land around its centre and puts up a sign with random
-- words. At every start, tells what the map says there: only this world can know.

local place = { x = 0, y = 20, z = 0 }
local reach = 80
local storage = core.get_mod_storage()

local function random_words()
    local bytes = SecureRandom():next_bytes(8)
    return (bytes:gsub(".", function(byte)
        return ("%02x"):format(byte:byte())
    end))
end

local function put_up_sign()
    core.set_node(place, { name = "default:sign_wall_wood" })
    core.get_meta(place):set_string("text", random_words())
end

local function tell()
    local starts = storage:get_int("starts") + 1
    storage:set_int("starts", starts)
    if starts == 1 then
        put_up_sign()
    end
    core.log("action", ("[landmark] start %d, seed %s, %s reads %s"):format(
        starts,
        core.get_mapgen_setting("seed"),
        core.get_node(place).name,
        core.get_meta(place):get_string("text")
    ))
end

local function emerged(_, _, remaining)
    if remaining == 0 then
        tell()
    end
end

core.register_on_mods_loaded(function()
    core.log("action", "[landmark] the server is called " .. core.settings:get("server_name"))
    core.after(0, function()
        local from, to = vector.subtract(place, reach), vector.add(place, reach)
        core.emerge_area(from, to, emerged)
    end)
end)
